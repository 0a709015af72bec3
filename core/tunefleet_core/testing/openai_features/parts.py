"""Parts of OpenAI's API, each with a request whose answer tells whether it was taken.

Source: OpenAI's API reference, https://platform.openai.com/docs/api-reference. Every request is made so
that a model with random weights shows it: what such a model would not write by itself, an
engine has made it write.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tunefleet_core.testing.openai_features.asking import Asking

__all__ = ["PARTS", "Part"]

_COMPLETIONS = "/v1/completions"
_COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens")
_WORDS = "red blue green white"
_NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_STRICT = {
    "type": "function",
    "function": {"name": "f", "parameters": {**_NUMBER, "additionalProperties": False}, "strict": True},
}
_ASKED = [{"role": "user", "content": "red"}]
"""Short, as is the tool: a small model of a test has room for few tokens beside what a template adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that a request may ask for.

    Attributes:
        endpoint: Path below `/v1`, as OpenAI names it.
        asked: The fields, or what the request is.
        is_taken: Asks, and says whether the answer shows it.
    """

    endpoint: str
    asked: str
    is_taken: Callable[[Asking], Awaitable[bool]]

    @property
    def name(self) -> str:
        """Its name in the record."""
        return f"{self.endpoint}: {self.asked}"


async def _lists_models(asking: Asking) -> bool:
    return asking.model in [card["id"] for card in (await asking.get("/v1/models"))["data"]]


async def _answers(asking: Asking) -> bool:
    found = await asking.chat()
    usage = found["usage"]
    is_counted = usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return is_counted and found["choices"][0]["finish_reason"] in ("stop", "length")


async def _streams(asking: Asking) -> bool:
    chunks = await asking.chat_stream()
    pieces = [piece for chunk in chunks for piece in _pieces(chunk)]
    return len(pieces) > 1 and "".join(pieces) == _said((await asking.chat())["choices"][0]["message"])


async def _streams_usage(asking: Asking) -> bool:
    chunks = await asking.chat_stream(stream_options={"include_usage": True})
    told: dict[str, int] = chunks[-1].get("usage") or {}
    whole = (await asking.chat())["usage"]
    return all(told.get(name) == whole[name] for name in _COUNTED)


async def _limits(asking: Asking) -> bool:
    found = await asking.chat(max_tokens=None, max_completion_tokens=3)
    return found["usage"]["completion_tokens"] == 3


async def _stops(asking: Asking) -> bool:
    whole = await asking.text()
    stop = whole[len(whole) // 2 :][:2]
    return await asking.text(stop=[stop]) == whole[: whole.index(stop)]


async def _makes_several(asking: Asking) -> bool:
    return len((await asking.chat(n=2, temperature=1.0))["choices"]) == 2


async def _draws_by_seed(asking: Asking) -> bool:
    same = {await asking.text(temperature=1.0, seed=7) for _ in range(3)}
    other = {await asking.text(temperature=1.0, seed=seed) for seed in (8, 9, 10)}
    return len(same) == 1 and len(same | other) > 1


async def _samples(asking: Asking) -> bool:
    return len({await asking.text(temperature=2.0) for _ in range(4)}) > 1


async def _samples_of_the_best(asking: Asking) -> bool:
    return {await asking.text(temperature=2.0, top_p=1e-6) for _ in range(3)} == {await asking.text()}


async def _weighs_tokens(asking: Asking) -> bool:
    biased = await asking.text(logit_bias={"5": 100.0})
    return biased != await asking.text()


async def _tells_logprobs(asking: Asking) -> bool:
    (choice,) = (await asking.chat(logprobs=True, top_logprobs=3))["choices"]
    if not choice.get("logprobs"):
        return False
    tokens = choice["logprobs"]["content"]
    return all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in tokens)


async def _writes_json(asking: Asking) -> bool:
    return (
        (await asking.text(response_format={"type": "json_object"}, max_tokens=40)).lstrip().startswith("{")
    )


async def _writes_by_schema(asking: Asking) -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": _NUMBER, "strict": True}}
    text = await asking.text(response_format=form, max_tokens=60)
    begun = "".join(text.split())  # untrained, it may write blanks to the end
    return begun != "" and '{"n"'.startswith(begun[:4])


async def _reads_tools(asking: Asking) -> bool:
    # Tools are part of the prompt: they make it longer, whatever comes of it.
    longer = (await asking.chat(messages=_ASKED, tools=[_TOOL], max_tokens=1))["usage"]["prompt_tokens"]
    return longer > (await asking.chat(messages=_ASKED, max_tokens=1))["usage"]["prompt_tokens"]


async def _must_call(asking: Asking) -> bool:
    return _calls(await asking.chat(messages=_ASKED, tools=[_STRICT], tool_choice="required", max_tokens=200))


async def _must_call_one(asking: Asking) -> bool:
    choice = {"type": "function", "function": {"name": "f"}}
    return _calls(await asking.chat(messages=_ASKED, tools=[_STRICT], tool_choice=choice, max_tokens=200))


async def _streams_calls(asking: Asking) -> bool:
    chunks = await asking.chat_stream(
        messages=_ASKED, tools=[_STRICT], tool_choice="required", max_tokens=200
    )
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    names = [call["function"].get("name") for call in calls if call["index"] == 0]
    return names[:1] == ["f"] or '"name": "f"' in "".join(_said(delta) for delta in deltas)


async def _completes(asking: Asking) -> bool:
    found = await asking.post(_COMPLETIONS, prompt=_WORDS, max_tokens=4, temperature=0)
    return found["usage"]["completion_tokens"] <= 4 and isinstance(found["choices"][0]["text"], str)


async def _completes_ids(asking: Asking) -> bool:
    found = await asking.post(_COMPLETIONS, prompt=[9, 10, 11], max_tokens=4, temperature=0)
    return found["usage"]["prompt_tokens"] == 3


async def _completes_several(asking: Asking) -> bool:
    found = await asking.post(_COMPLETIONS, prompt=[_WORDS, "red"], max_tokens=4, temperature=0)
    return [choice["index"] for choice in found["choices"]] == [0, 1]


async def _streams_completion(asking: Asking) -> bool:
    fields = {"prompt": _WORDS, "max_tokens": 8, "temperature": 0}
    whole = (await asking.post(_COMPLETIONS, **fields))["choices"][0]["text"]
    chunks = await asking.stream(_COMPLETIONS, **fields)
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole


async def _echoes(asking: Asking) -> bool:
    found = await asking.post(_COMPLETIONS, prompt=_WORDS, max_tokens=2, temperature=0, echo=True)
    return str(found["choices"][0]["text"]).lstrip().startswith("red blue")


async def _responds(asking: Asking) -> bool:
    found = await asking.post("/v1/responses", input=_WORDS, max_output_tokens=8, temperature=0)
    (message,) = (item for item in found["output"] if item["type"] == "message")
    return message["content"][0]["type"] == "output_text"


async def _streams_response(asking: Asking) -> bool:
    answer = await asking.events("/v1/responses", input=_WORDS, max_output_tokens=8, temperature=0)
    return "response.output_text.delta" in answer and answer[-1] in (
        "response.completed",
        "response.incomplete",
    )


async def _embeds(asking: Asking) -> bool:
    found = await asking.post("/v1/embeddings", input=[_WORDS, "red"])
    lengths = [math.hypot(*item["embedding"]) for item in found["data"]]
    return len(lengths) == 2 and all(length > 0 for length in lengths)


def _pieces(chunk: dict[str, Any]) -> list[str]:
    texts = (_said(choice["delta"]) for choice in chunk["choices"])
    return [text for text in texts if text]


def _said(message: dict[str, Any]) -> str:
    """Return answer and thoughts: a model with random weights mixes them."""
    return f"{message.get('content') or ''}{message.get('reasoning_content') or ''}"


def _calls(found: Any) -> bool:
    choice = found["choices"][0]
    message = choice["message"]
    calls: list[Any] = message.get("tool_calls") or []
    if [call["function"]["name"] for call in calls][:1] == ["f"]:
        return True
    # Untrained, it may write blanks inside of the arguments until it is cut: the call then is still text,
    # or SGLang has taken it from the text and left nothing.
    is_gone = choice["finish_reason"] == "length" and not _said(message)
    return is_gone or '"name": "f"' in _said(message)


_CHAT = "chat/completions"
PARTS = (
    Part(endpoint="models", asked="list", is_taken=_lists_models),
    Part(endpoint=_CHAT, asked="messages", is_taken=_answers),
    Part(endpoint=_CHAT, asked="stream", is_taken=_streams),
    Part(endpoint=_CHAT, asked="stream_options.include_usage", is_taken=_streams_usage),
    Part(endpoint=_CHAT, asked="max_completion_tokens", is_taken=_limits),
    Part(endpoint=_CHAT, asked="stop", is_taken=_stops),
    Part(endpoint=_CHAT, asked="n", is_taken=_makes_several),
    Part(endpoint=_CHAT, asked="temperature", is_taken=_samples),
    Part(endpoint=_CHAT, asked="top_p", is_taken=_samples_of_the_best),
    Part(endpoint=_CHAT, asked="seed", is_taken=_draws_by_seed),
    Part(endpoint=_CHAT, asked="logit_bias", is_taken=_weighs_tokens),
    Part(endpoint=_CHAT, asked="logprobs, top_logprobs", is_taken=_tells_logprobs),
    Part(endpoint=_CHAT, asked="response_format json_object", is_taken=_writes_json),
    Part(endpoint=_CHAT, asked="response_format json_schema", is_taken=_writes_by_schema),
    Part(endpoint=_CHAT, asked="tools", is_taken=_reads_tools),
    Part(endpoint=_CHAT, asked="tool_choice required", is_taken=_must_call),
    Part(endpoint=_CHAT, asked="tool_choice of one function", is_taken=_must_call_one),
    Part(endpoint=_CHAT, asked="tool_choice required, stream", is_taken=_streams_calls),
    Part(endpoint="completions", asked="prompt", is_taken=_completes),
    Part(endpoint="completions", asked="prompt of token ids", is_taken=_completes_ids),
    Part(endpoint="completions", asked="several prompts", is_taken=_completes_several),
    Part(endpoint="completions", asked="stream", is_taken=_streams_completion),
    Part(endpoint="completions", asked="echo", is_taken=_echoes),
    Part(endpoint="responses", asked="input", is_taken=_responds),
    Part(endpoint="responses", asked="stream", is_taken=_streams_response),
    Part(endpoint="embeddings", asked="input", is_taken=_embeds),
)
"""In the order of the table."""
