"""Parameters do what OpenAI says, and what cannot be done is said and not ignored."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import reference
from asking import chat
from conftest import Lab
from engine_process import EngineProcess

PROMPT = "the quick brown fox"


def _text(engine: EngineProcess, **more: Any) -> str:
    wanted: dict[str, Any] = {
        "model": "a",
        "prompt": PROMPT,
        "max_tokens": 24,
        "extra_body": {"ignore_eos": True},
    }
    return engine.client().completions.create(**{**wanted, **more}).choices[0].text


def test_streamed_text_equals_whole_text_and_both_equal_the_decoded_ids(
    qwen_lab: Lab, qwen: EngineProcess
) -> None:
    tokenizer = reference.tokenizer(qwen_lab.base)
    for model in ("base", "a", "b"):
        whole = qwen.client().chat.completions.create(model=model, **chat("hello, wörld"))
        chunks = list(
            qwen.client().chat.completions.create(
                model=model, stream=True, stream_options={"include_usage": True}, **chat("hello, wörld")
            )
        )
        choices = [choice for chunk in chunks for choice in chunk.choices]
        streamed = "".join(choice.delta.content or "" for choice in choices)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello, wörld"}], add_generation_prompt=True, return_dict=False
        )
        ids = reference.greedy(qwen_lab.base, qwen_lab.path(model), prompt, 16, stop_at_eos=True)
        assert streamed == whole.choices[0].message.content == tokenizer.decode(ids, skip_special_tokens=True)
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == [
            whole.choices[0].finish_reason
        ]
        assert chunks[-1].choices == []
        assert chunks[-1].usage == whole.usage
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(prompt), len(ids))


def test_text_parts_are_read_as_one_text(qwen: EngineProcess) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    as_parts = qwen.post("/tokenize", {"model": "base", "messages": [{"role": "user", "content": parts}]})
    as_text = qwen.post("/tokenize", {"model": "base", "messages": [{"role": "user", "content": "hello"}]})
    assert as_parts.json() == as_text.json()


def test_tokenize_and_detokenize_are_inverse(qwen: EngineProcess) -> None:
    ids = qwen.post("/tokenize", {"prompt": "naïve 🙂 <|im_end|>"}).json()
    assert ids["count"] == len(ids["tokens"])
    assert qwen.post("/detokenize", {"tokens": ids["tokens"]}).json() == {"prompt": "naïve 🙂 <|im_end|>"}


def test_the_end_token_stops_and_is_not_shown(qwen_lab: Lab, qwen: EngineProcess) -> None:
    """Any token can be made an end token, so the test does not hope that a random model ends by itself."""
    ids = reference.greedy(qwen_lab.base, qwen_lab.path("a"), [9, 9, 9], 12)
    stop_id = ids[5]
    answer = qwen.client().completions.create(
        model="a", prompt=[9, 9, 9], max_tokens=12, temperature=0, extra_body={"stop_token_ids": [stop_id]}
    )
    kept = ids[: ids.index(stop_id)]
    assert answer.choices[0].text == reference.tokenizer(qwen_lab.base).decode(kept)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(kept) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(qwen: EngineProcess, stream: bool) -> None:
    full = _text(qwen, temperature=0)
    stop = full[8:11]
    expected = full[: full.index(stop)]
    settings = dict(model="a", prompt=PROMPT, max_tokens=24, temperature=0, stop=["\x00never", stop])
    if stream:
        chunks = list(
            qwen.client().completions.create(stream=True, extra_body={"ignore_eos": True}, **settings)
        )
        text = "".join(chunk.choices[0].text for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        choice = qwen.client().completions.create(extra_body={"ignore_eos": True}, **settings).choices[0]
        text, reason = choice.text, choice.finish_reason
    assert (text, reason) == (expected, "stop")


def test_a_seed_gives_the_same_answer_whoever_shares_the_batch(qwen: EngineProcess) -> None:
    settings = dict(temperature=1.0, top_p=0.95, seed=42)
    alone = _text(qwen, **settings)
    many = qwen.client().completions.create(
        model="a",
        prompt=[PROMPT, "another", PROMPT],
        max_tokens=24,
        extra_body={"ignore_eos": True},
        **settings,
    )
    assert [many.choices[0].text, many.choices[2].text] == [alone, alone]
    assert _text(qwen, temperature=1.0, top_p=0.95, seed=43) != alone


def test_n_choices_differ_and_share_the_prompt(qwen: EngineProcess) -> None:
    settings = dict(
        model="a", temperature=1.0, seed=1, n=4, messages=[{"role": "user", "content": "hi"}], max_tokens=12
    )
    first = qwen.client().chat.completions.create(**settings)
    again = qwen.client().chat.completions.create(**settings)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts == [choice.message.content for choice in again.choices]
    one = qwen.client().chat.completions.create(**{**settings, "n": 1})
    assert first.usage.prompt_tokens == one.usage.prompt_tokens
    chunks = list(qwen.client().chat.completions.create(stream=True, **settings))
    streamed = {i: "" for i in range(4)}
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert list(streamed.values()) == texts


def test_tiny_top_p_is_greedy_and_penalties_stop_repetition(qwen: EngineProcess) -> None:
    assert _text(qwen, temperature=1.0, top_p=1e-6, seed=5) == _text(qwen, temperature=0)
    settings: dict[str, Any] = dict(
        model="base",
        prompt=PROMPT,
        max_tokens=40,
        temperature=0,
        logprobs=0,
        extra_body={"ignore_eos": True, "return_tokens_as_token_ids": True},
    )
    free = qwen.client().completions.create(**settings).choices[0].logprobs.tokens
    tame = qwen.client().completions.create(frequency_penalty=2.0, presence_penalty=2.0, **settings)
    assert len(set(tame.choices[0].logprobs.tokens)) > len(set(free))


def test_sampling_follows_the_distribution(qwen_lab: Lab, qwen: EngineProcess) -> None:
    """The first token of many choices comes as often as its probability says, within five standard errors."""
    prompt = [5, 6, 7]
    probabilities = (reference.logprobs(qwen_lab.base, None, prompt)[-1] / 0.5).softmax(-1)
    most = int(probabilities.argmax())
    expected = probabilities[most].item()
    hits, trials = 0, 0
    for seed in range(5):
        answer = qwen.client().completions.create(
            model="base",
            prompt=prompt,
            max_tokens=1,
            n=128,
            temperature=0.5,
            seed=seed,
            logprobs=0,
            extra_body={"return_tokens_as_token_ids": True},
        )
        shown = [choice.logprobs.tokens[0] for choice in answer.choices]
        hits, trials = hits + shown.count(f"token_id:{most}"), trials + len(shown)
    error = (expected * (1 - expected) / trials) ** 0.5
    assert abs(hits / trials - expected) < 5 * error


def test_echo_returns_prompt_and_answer(qwen: EngineProcess) -> None:
    assert _text(qwen, temperature=0, echo=True) == PROMPT + _text(qwen, temperature=0)


def test_too_long_a_conversation_is_refused_with_openais_code(qwen: EngineProcess) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        qwen.client().completions.create(model="a", prompt=[5] * 1012, max_tokens=13)
    assert caught.value.code == "context_length_exceeded"
    full = qwen.client().completions.create(
        model="a", prompt=[5] * 1012, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
    )
    assert full.usage.total_tokens == 1024


_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"seed": "x"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"frequency_penalty": 2.5}, "frequency_penalty"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": []}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"model": 7}, "model"),
    ({"model": None}, "model"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"logit_bias": {"5": 10}}, "logit_bias"),
    ({"no_such_thing": 1}, "no_such_thing"),
]


@pytest.mark.parametrize(("change", "field"), _WRONG, ids=[str(change) for change, _ in _WRONG])
def test_a_wrong_value_is_a_400_that_names_the_field(
    qwen: EngineProcess, change: dict[str, Any], field: str
) -> None:
    reply = qwen.post("/v1/chat/completions", {"model": "a", **chat("x"), **change})
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["param"] == field
    assert field.split("[")[0] in error["message"]


def test_fields_without_effect_and_default_values_are_taken(qwen: EngineProcess) -> None:
    harmless = {
        "user": "me",
        "tools": [],
        "response_format": {"type": "text"},
        "logit_bias": {},
        "stop": None,
    }
    assert qwen.post("/v1/chat/completions", {"model": "a", **chat("x"), **harmless}).status == 200


def test_other_mistakes_have_openais_shape_too(qwen: EngineProcess) -> None:
    assert "error" in qwen.get("/v1/nothing").json()
    assert qwen.post("/v1/completions", [1]).status == 400
    assert qwen.post("/v1/completions", {"model": "a"}).json()["error"]["param"] == "prompt"
    assert qwen.post("/v1/completions", {"model": "a", "prompt": [10**6]}).status == 400
    assert qwen.get("/v1/models/nobody").status == 404
    assert qwen.get("/v1/models/a").json()["parent"] == "base"
