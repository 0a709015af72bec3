"""Two ways in which SGLang 0.5.23 serves another model than the one asked for, told by the contract.

SGLang wants a GPU, so it is a fake that behaves as it was seen to: a bare adapter name is answered
by the base, and an rsLoRA adapter is scaled by alpha / rank.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet_core.errors import Reason
from tunefleet_core.parity import (
    TOP_TOKENS,
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TopLogprobs,
    TrainServeContract,
)
from tunefleet_services.server.contract_check import check_engine
from tunefleet_services.server.engine_http import EngineHttp

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
UNVERIFIED = ContractState.CONTRACT_STATE_UNVERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
RANK, ALPHA = 16, 4.0
VOCABULARY = 60
PROMPTS = tuple((number, number + 1, number + 2) for number in range(6))


def logprobs(prompt: Sequence[int], scale: float) -> list[float]:
    """Return what a model of one layer answers, its adapter at a scale; 0: the base."""
    draw = random.Random(str(tuple(prompt)))
    logits = [draw.gauss(0, 2) + scale * draw.gauss(0, 1) for _ in range(VOCABULARY)]
    total = math.log(sum(map(math.exp, logits)))
    return [value - total for value in logits]


def top(prompt: Sequence[int], scale: float) -> TopLogprobs:
    values = logprobs(prompt, scale)
    best = sorted(range(VOCABULARY), key=lambda token: -values[token])[:TOP_TOKENS]
    return TopLogprobs(token_ids=tuple(best), logprobs=tuple(values[token] for token in best))


def contract(*, rslora: bool) -> TrainServeContract:
    """Return the record of an adapter that was trained at its right scale."""
    scale = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    return TrainServeContract(
        base_digest="b" * 64,
        tokenizer_digest="",
        template=TemplateRecord(text="", sha256="", stop_token_ids=(), frozen_time_seconds=0),
        adapter=AdapterRecord(
            rank=RANK, alpha=ALPHA, effective_scale=scale, target_modules=("q_proj",), rslora=rslora
        ),
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(),
        numbers=tuple(
            NumbersRecord(prompt_token_ids=prompt, tuned=top(prompt, scale), base=top(prompt, 0.0))
            for prompt in PROMPTS
        ),
    )


class FakeSglang(BaseHTTPRequestHandler):
    """Answers `base:adapter` with the adapter at alpha / rank, and any other name with the base."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self.send_error(404)
            return
        _, _, adapter = body["model"].partition(":")
        found = top(body["prompt"], ALPHA / RANK if adapter else 0.0)
        named = {
            f"token_id:{token}": value for token, value in zip(found.token_ids, found.logprobs, strict=True)
        }
        data = json.dumps({"choices": [{"logprobs": {"top_logprobs": [named]}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def sglang() -> Iterator[EngineHttp]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeSglang)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield EngineHttp(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_bare_adapter_name_that_the_base_answers_is_refused(sglang: EngineHttp) -> None:
    found = await check_engine(sglang, "tickets@1", contract(rslora=False))
    assert found.result.numbers == REFUSED
    assert found.error is not None
    assert found.error.reason is Reason.NUMBERS_MISMATCH
    assert "The base answers under the adapter's name" in found.error.message


async def test_the_name_that_it_knows_an_adapter_by_is_verified(sglang: EngineHttp) -> None:
    found = await check_engine(sglang, "base:tickets@1", contract(rslora=False))
    assert (found.result.tokens, found.result.numbers) == (UNVERIFIED, VERIFIED), found.result.summary


async def test_rslora_at_alpha_over_rank_is_refused_with_the_factor(sglang: EngineHttp) -> None:
    found = await check_engine(sglang, "base:tickets@1", contract(rslora=True))
    assert found.result.numbers == REFUSED
    assert found.error is not None
    # 1 / sqrt(16), read off numbers that the softmax bends a little
    assert any(f"at a scale about {near}x the trained one" in found.error.message for near in (0.2, 0.3))
