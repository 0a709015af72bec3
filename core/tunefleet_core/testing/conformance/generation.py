"""Generate: what an engine answers over OpenAI HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.openai_http import Answer, chat_body, get, open_stream, post, streamed

__all__ = ["Generate"]

_SERVE = Capability.CAPABILITY_SERVE
_PROMPT = "red blue green white"
_NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
_CUT_STREAMS = 64  # more than any engine's slots of this size


class Generate(Suite):
    """Answers, streams, limits, and requests that are wrong."""

    @case(_SERVE)
    async def test_an_answer_has_the_form_clients_read(self, bench: Bench) -> None:
        body = (await _post(bench, max_tokens=6)).json()
        (choice,) = body["choices"]
        assert body["object"] == "chat.completion"
        assert body["model"] == "tiny"
        assert choice["message"]["role"] == "assistant"
        assert choice["finish_reason"] in ("stop", "length")
        usage = body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    @case(_SERVE)
    async def test_a_stream_is_the_answer_in_order(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        whole = await _post(bench, max_tokens=12)
        chunks = await streamed(address, chat_body("tiny", _PROMPT, max_tokens=12, stream=True))
        assert _text(chunks) == whole.text()
        finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert [finish for finish in finishes if finish] == [whole.json()["choices"][0]["finish_reason"]]
        assert len({chunk["id"] for chunk in chunks}) == 1

    @case(_SERVE)
    async def test_an_answer_is_no_longer_than_asked(self, bench: Bench) -> None:
        for limit in (1, 2):
            body = (await _post(bench, max_tokens=limit)).json()
            assert body["usage"]["completion_tokens"] <= limit
            assert body["choices"][0]["finish_reason"] == "length"

    @case(_SERVE)
    async def test_a_stop_text_ends_the_answer_before_it(self, bench: Bench) -> None:
        whole = (await _post(bench, max_tokens=12)).text()
        stop = whole[len(whole) // 2 :][:2]
        body = (await _post(bench, max_tokens=12, stop=[stop])).json()
        assert body["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
        assert body["choices"][0]["finish_reason"] == "stop"

    @case(_SERVE)
    async def test_answers_at_the_same_time_do_not_mix(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        bodies = [chat_body("tiny", f"number {number}", max_tokens=8) for number in range(4)]
        alone = [(await post(address, body)).text() for body in bodies]
        together = await asyncio.gather(*(post(address, body) for body in bodies))
        assert [answer.text() for answer in together] == alone

    @case(_SERVE, is_error=True)
    async def test_streams_that_are_cut_free_their_slots(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        body = chat_body("tiny", max_tokens=200, stream=True)
        for _ in range(_CUT_STREAMS // 8):
            streams = await asyncio.gather(*(open_stream(address, body) for _ in range(8)))
            for stream in streams:
                stream.close()
        assert (await _post(bench, max_tokens=2)).status == 200

    @case(_SERVE, is_error=True)
    async def test_an_unknown_model_is_not_found(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        for stream in (False, True):
            answer = await post(address, chat_body("no-such-model", max_tokens=2, stream=stream))
            _is_refusal(answer, 404)

    @case(_SERVE, is_error=True)
    async def test_a_body_that_is_no_json_is_refused(self, bench: Bench) -> None:
        _is_refusal(await post((await bench.engine()).address, b"{not json"), 400)

    @case(_SERVE, is_error=True)
    async def test_a_request_without_messages_is_refused(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        for body in (b'{"model": "tiny"}', b'{"model": "tiny", "messages": 3}'):
            _is_refusal(await post(address, body), 400)

    @case(_SERVE, is_error=True)
    async def test_a_negative_length_is_refused(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        _is_refusal(await post(address, chat_body("tiny", max_tokens=-1)), 400)

    @case(_SERVE, is_error=True)
    async def test_a_form_that_is_asked_for_is_held_or_refused(self, bench: Bench) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": _NUMBER, "strict": True}}
        address = (await bench.engine()).address
        answer = await post(address, chat_body("tiny", max_tokens=40, response_format=form))
        if answer.status != 200:
            _is_refusal(answer, 400)
        else:
            assert answer.text().lstrip().startswith("{"), "asked for JSON by a schema, it answers with prose"

    @case(_SERVE, is_error=True)
    async def test_a_path_that_is_not_there_is_not_found(self, bench: Bench) -> None:
        assert (await get((await bench.engine()).address, "/v1/no-such-thing")).status == 404

    @case(_SERVE, is_error=True)
    async def test_after_refusals_it_answers_as_before(self, bench: Bench) -> None:
        before = (await _post(bench, max_tokens=6)).text()
        for body in (b"", b"[]", chat_body("no-such-model"), chat_body("tiny", max_tokens=-1)):
            await post((await bench.engine()).address, body)
        assert (await _post(bench, max_tokens=6)).text() == before


async def _post(bench: Bench, **fields: int | list[str]) -> Answer:
    answer = await post((await bench.engine()).address, chat_body("tiny", _PROMPT, **fields))
    assert answer.status == 200, answer
    return answer


def _text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def _is_refusal(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.json()["error"]["message"], "the error has no message, which clients show"
