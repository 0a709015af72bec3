"""The engine serves what was trained: several adapters at once on one base, held to their contracts."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import train_lab as lab
from engine_process import RunningEngine, mlx_lm_server, our_engine

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet_core.catalog.matrix import record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import TrainServeContract, check_numbers, read_contract
from tunefleet_core.testing.openai_features import check_or_record, find_features
from tunefleet_families import LLAMA3, QWEN3
from tunefleet_mlx.adapter_files import peft_to_mlx
from tunefleet_mlx.engine.drafted import check_draft

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
KINDS = ("lora", "rslora", "dora")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A base and adapters that were trained on it, by kind."""

    base: Path
    adapters: dict[str, Path]

    def record(self, kind: str, request: pytest.FixtureRequest) -> None:
        """Let the matrix know what was served."""
        test = f"plugins/mlx/tests/{Path(__file__).name}::{request.node.name}"
        for adaptation in (kind, "full"):
            record("served", f"mlx/{adaptation}/{self.base.name}", test)

    def contract(self, kind: str) -> TrainServeContract:
        return read_contract(self.adapters[kind])


@pytest.fixture(scope="module")
def trained(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    base = bases / "qwen3"
    runs = {
        kind: lab.run(
            lab.make_order(base, tmp_path_factory.mktemp(kind), lab.job(kind, steps=8 + 4 * number))
        )
        for number, kind in enumerate(KINDS)
    }
    return Trained(base=base, adapters={kind: run.output for kind, run in runs.items()})


@pytest.fixture(scope="module")
def engine(trained: Trained) -> Iterator[RunningEngine]:
    """The base with one adapter of each kind."""
    template = trained.adapters["lora"] / "chat_template.jinja"  # this base brings none
    # Tools take more tokens of this tokenizer than this base was made for.
    with our_engine(trained.base, "--chat-template", template, "--max-context", 4096) as running:
        for kind, folder in trained.adapters.items():
            template = trained.contract(kind).template
            status, answer = running.load(
                kind, folder, chat_template=template.text, stop_token_ids=list(template.stop_token_ids)
            )
            assert status == 200, answer
        yield running


def said(model: str, text: str = "red", **more: object) -> dict[str, Any]:
    """Return the body of a greedy chat."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12, **more}


def text_of(answer: Any) -> str:
    return answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_what_is_served(
    engine: RunningEngine, trained: Trained, kind: str, request: pytest.FixtureRequest
) -> None:
    found = engine.check(kind, trained.contract(kind))
    assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
    assert found.distance_to_tuned < 1e-3 < found.distance_to_base
    trained.record(kind, request)


def test_a_llama_is_served_with_its_adapter(
    bases: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = bases / "llama"
    trained = Trained(
        base=base, adapters={"lora": lab.run(lab.make_order(base, tmp_path, lab.job("lora"))).output}
    )
    template = trained.adapters["lora"] / "chat_template.jinja"
    with our_engine(base, "--chat-template", template) as engine:
        assert engine.load("lora", trained.adapters["lora"])[0] == 200
        found = engine.check("lora", trained.contract("lora"))
    assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
    trained.record("lora", request)


def test_the_base_and_another_adapter_are_refused_in_its_place(
    engine: RunningEngine, trained: Trained
) -> None:
    for wrong in ("base", "dora"):
        found = engine.check(wrong, trained.contract("lora"))
        assert found.numbers == REFUSED, found.summary


def test_an_adapter_at_another_scale_is_refused(
    engine: RunningEngine, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "strong"
    shutil.copytree(trained.adapters["lora"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * 4}))
    assert engine.load("strong", folder)[0] == 200
    found = engine.check("strong", trained.contract("lora"))
    assert found.numbers == REFUSED
    assert engine.post("/v1/unload_lora_adapter", {"lora_name": "strong"})[0] == 200


def test_adapters_answer_together_as_they_do_alone(engine: RunningEngine) -> None:
    """Requests for different models are computed side by side; none waits for another's end."""
    asked = [said(model, word) for word in ("red", "blue", "green") for model in ("base", *KINDS)] * 2
    alone = [text_of(engine.ask("/v1/chat/completions", body)) for body in asked]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda body: text_of(engine.ask("/v1/chat/completions", body)), asked))
    assert together == alone
    assert len(set(alone[:4])) > 1, "the adapters are felt"


def test_a_seed_gives_the_same_answer_among_others(engine: RunningEngine) -> None:
    drawn = said("lora", temperature=1.5, seed=11, max_tokens=16)
    first = text_of(engine.ask("/v1/chat/completions", drawn))
    bodies = [drawn, said("lora", temperature=1.5), drawn, said("base", temperature=1.5, seed=12)]
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda body: text_of(engine.ask("/v1/chat/completions", body)), bodies))
    assert texts[0] == texts[2] == first


@pytest.mark.parametrize(("guessing", "is_good"), [("qwen3", True), ("llama", False)])
def test_guessed_tokens_change_no_answer(
    engine: RunningEngine, trained: Trained, bases: Path, guessing: str, is_good: bool
) -> None:
    """The base guesses for itself and for its adapters; a random model guesses and is never right."""
    template = trained.adapters["lora"] / "chat_template.jinja"
    options = ("--chat-template", template, "--draft-model", bases / guessing, "--draft-tokens", 3)
    asked = [said(model, word, max_tokens=24) for word in ("red", "blue") for model in ("base", *KINDS)]
    asked += [said("lora", max_tokens=size) for size in (1, 2, 5)]
    asked += [said("base", frequency_penalty=1.5, max_tokens=24, logprobs=True, top_logprobs=2)]
    alone = [engine.ask("/v1/chat/completions", body)["choices"] for body in asked]
    with our_engine(trained.base, *options) as drafted:
        for kind, folder in trained.adapters.items():
            stops = list(trained.contract(kind).template.stop_token_ids)
            text = trained.contract(kind).template.text
            assert drafted.load(kind, folder, chat_template=text, stop_token_ids=stops)[0] == 200
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda body: drafted.ask("/v1/chat/completions", body), asked))
        for answer, before in zip(answers, alone, strict=True):
            for key in ("message", "finish_reason"):
                assert answer["choices"][0][key] == before[0][key]
        found = drafted.check("lora", trained.contract("lora"))
        assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
        counts = drafted.metrics()
        share = (
            counts["tunefleet_mlx_draft_tokens_accepted_total"] / counts["tunefleet_mlx_tokens_written_total"]
        )
        assert share > 0.3 if is_good else share < 0.2
        form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": TICKET, "strict": True}}
        status, answer = drafted.post("/v1/chat/completions", said("lora", response_format=form))
        assert (status, "'response_format'" in answer["error"]["message"]) == (400, True)


def test_a_draft_model_of_another_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="another tokenizer"):
        check_draft(None, None, {"a": 0, "b": 1}, {"a": 0})


def test_an_adapter_of_the_same_name_is_not_answered_from_what_was_kept_of_the_last(
    engine: RunningEngine, trained: Trained
) -> None:
    answers: list[str] = []
    for kind in ("lora", "dora"):
        template = trained.contract(kind).template.text
        assert engine.load("again", trained.adapters[kind], chat_template=template)[0] == 200
        answers.append(text_of(engine.ask("/v1/chat/completions", said("again"))))
        assert answers[-1] == text_of(engine.ask("/v1/chat/completions", said(kind)))
        assert engine.post("/v1/unload_lora_adapter", {"lora_name": "again"})[0] == 200


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"adapters": "/somewhere"}, "adapters"),  # mlx-lm's own way, by which the base may answer
        ({"draft_model": "/somewhere"}, "draft_model"),
        ({"n": 2}, "n"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [3]}, "stop"),
        ({"logit_bias": {"a": "b"}}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
    ],
)
def test_what_it_would_pass_over_is_refused_by_name(
    engine: RunningEngine, more: dict[str, object], word: str
) -> None:
    status, answer = engine.post("/v1/chat/completions", said("base") | more)
    assert status == 400
    assert f"'{word}" in answer["error"]["message"]


def test_a_prompt_beyond_the_context_is_refused(trained: Trained) -> None:
    with our_engine(trained.base, "--max-context", 32) as small:
        status, answer = small.post("/v1/completions", {"model": "base", "prompt": [5] * 32})
        assert (status, "32 tokens" in answer["error"]["message"]) == (400, True)
        cut = small.ask("/v1/completions", {"model": "base", "prompt": [5] * 30, "max_tokens": 9})
        assert cut["usage"]["completion_tokens"] <= 2


def test_mlx_lms_own_server_answers_with_the_base_under_its_default_name_and_the_contract_says_so(
    trained: Trained, tmp_path: Path
) -> None:
    """The trap this engine does not have: `adapters` beside `default_model` is ignored without a word."""
    peft_to_mlx(trained.adapters["lora"], tmp_path, layers=2)
    record = trained.contract("lora").numbers[0]
    contract = replace(trained.contract("lora"), numbers=(record,))
    with mlx_lm_server(trained.base) as theirs:
        measured = {
            model: _theirs(theirs, model, tmp_path, trained, record.prompt_token_ids)
            for model in ("default_model", str(trained.base))
        }
    with pytest.raises(TunefleetError, match="The base answers under the adapter's name") as caught:
        check_numbers(contract, [measured["default_model"]])
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert check_numbers(contract, [measured[str(trained.base)]]).accepted


def _theirs(
    server: RunningEngine, model: str, adapter: Path, trained: Trained, prompt: tuple[int, ...]
) -> dict[int, float]:
    """Ask mlx-lm's server for the numbers after a prompt: it takes no ids, so the text of them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    text = tokenizer.decode(list(prompt))
    assert tuple(tokenizer.encode(text)) == prompt
    body = {"model": model, "adapters": str(adapter), "prompt": text, "max_tokens": 1, "temperature": 0.0}
    answer = server.ask("/v1/completions", body | {"logprobs": True, "top_logprobs": 11})
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {int(one["id"]): float(one["logprob"]) for one in top}


def load_with(engine: RunningEngine, trained: Trained, name: str, template: str) -> None:
    stops = list(trained.contract("lora").template.stop_token_ids)
    status, answer = engine.load(name, trained.adapters["lora"], chat_template=template, stop_token_ids=stops)
    assert status == 200, answer


def test_it_takes_what_the_table_says(engine: RunningEngine, trained: Trained) -> None:
    load_with(engine, trained, "asked", QWEN3.chat_template)  # it shows tools
    check_or_record("mlx", asyncio.run(find_features(engine.address, "asked")))
    assert engine.post("/v1/unload_lora_adapter", {"lora_name": "asked"})[0] == 200


LLAMA3_1 = next(form.chat_template for form in LLAMA3.variants if form.name == "llama3_1")


@pytest.mark.parametrize("template", [QWEN3.chat_template, LLAMA3_1], ids=["qwen3", "llama3_1"])
def test_a_demanded_call_is_written_by_its_schema(
    engine: RunningEngine, trained: Trained, template: str
) -> None:
    """By a parser of mlx-lm, and by a reader of ours where it has none."""
    load_with(engine, trained, "caller", template)
    file = {"type": "function", "function": {"name": "file", "description": "File.", "parameters": TICKET}}
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    one = {"type": "function", "function": {"name": "file"}}
    more: dict[str, Any] = {"tools": [other, file], "tool_choice": one, "max_tokens": 400}
    answer = engine.ask("/v1/chat/completions", said("caller", temperature=1.0, **more))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"][:1]
    assert call["function"]["name"] == "file"
    found = json.loads(call["function"]["arguments"])
    assert list(found) == ["queue", "words"]
    assert found["queue"] in ("oak", "elm")
    assert engine.post("/v1/unload_lora_adapter", {"lora_name": "caller"})[0] == 200


TICKET = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["oak", "elm"]},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
    },
    "required": ["queue", "words"],
    "additionalProperties": False,
}


def test_answers_are_held_to_a_form_beside_free_ones(engine: RunningEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": TICKET, "strict": True}}
    free = [said(kind) for kind in KINDS]
    held = [said(kind, response_format=form, max_tokens=300, temperature=1.0) for kind in (*KINDS, "base")]
    alone = [text_of(engine.ask("/v1/chat/completions", body)) for body in free]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda body: engine.ask("/v1/chat/completions", body), free + held))
    assert [text_of(answer) for answer in answers[: len(free)]] == alone
    for answer in answers[len(free) :]:
        found = json.loads(text_of(answer))
        assert list(found) == ["queue", "words"]
        assert found["queue"] in ("oak", "elm")
        assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_schema_that_cannot_be_enforced_is_refused(engine: RunningEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    status, answer = engine.post("/v1/chat/completions", said("lora", response_format=form))
    assert status == 400
    assert "response_format.json_schema.schema" in answer["error"]["message"]
