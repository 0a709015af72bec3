"""vLLM serves what was trained: adapters loaded while it runs, mixed in one batch, held to their records."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from vllm_lab import RunningEngine, Trained, said, text_of

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet_core.catalog.matrix import record
from tunefleet_core.errors import Reason, TunefleetError

pytestmark = pytest.mark.slow

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
WORDS = ("red", "blue", "one", "two", "three")


@pytest.mark.parametrize("name", ["colours", "numbers"])
def test_what_was_trained_is_what_is_served(
    engine: RunningEngine, trained: Trained, name: str, request: pytest.FixtureRequest
) -> None:
    found = engine.check(name, trained.contract(name))
    assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
    assert found.distance_to_tuned < 0.01 < found.distance_to_base
    for adaptation in ("lora", "full"):
        record(
            "served",
            f"vllm/{adaptation}/qwen3",
            f"plugins/vllm/tests/{Path(__file__).name}::{request.node.name}",
        )


def test_its_sockets_are_where_the_order_says(engine: RunningEngine, socket_dir: Path) -> None:
    assert engine.models()  # it answers, so its processes talk to each other
    sockets = [path for path in socket_dir.iterdir() if path.is_socket()]
    assert sockets, "and they do so there"
    assert {len(path.name) for path in sockets} == {36}  # what a server leaves room for in a path


@pytest.mark.parametrize("wrong", ["base", "numbers"])
def test_another_model_in_its_place_is_refused(engine: RunningEngine, trained: Trained, wrong: str) -> None:
    found = engine.check(wrong, trained.contract("colours"))
    assert found.numbers == REFUSED, found.summary


def test_an_adapter_at_another_scale_is_refused(
    engine: RunningEngine, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "strong"
    shutil.copytree(trained.adapters["colours"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * 4}))
    engine.load("strong", folder)
    found = engine.check("strong", trained.contract("colours"))
    engine.unload("strong")
    assert found.numbers == REFUSED, found.summary


def test_adapters_come_and_go_while_it_serves(engine: RunningEngine, trained: Trained) -> None:
    before = text_of(engine.ask("/v1/chat/completions", said("numbers", "one")))
    engine.load("again@2", trained.adapters["colours"])
    assert {"base", "colours", "numbers", "again@2"} <= engine.models()
    of_colours = text_of(engine.ask("/v1/chat/completions", said("colours")))
    assert text_of(engine.ask("/v1/chat/completions", said("again@2"))) == of_colours
    engine.unload("again@2")
    engine.unload("again@2")
    assert engine.post("/v1/chat/completions", said("again@2"))[0] == 404
    assert text_of(engine.ask("/v1/chat/completions", said("numbers", "one"))) == before


def test_a_folder_that_is_no_adapter_changes_nothing(engine: RunningEngine, tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="No adapter found") as caught:
        engine.load("rubbish", tmp_path)
    assert caught.value.reason is Reason.BACKEND_FAILED
    assert "rubbish" not in engine.models()


def test_adapters_in_one_batch_answer_as_they_do_alone(engine: RunningEngine) -> None:
    asked = [said(model, word) for word in WORDS for model in ("colours", "numbers")] * 2
    alone = [text_of(engine.ask("/v1/chat/completions", body)) for body in asked]
    with ThreadPoolExecutor(15) as threads:
        together = list(threads.map(lambda body: text_of(engine.ask("/v1/chat/completions", body)), asked))
    assert together == alone
    assert len(set(alone)) > 2, "the adapters are felt"


def test_on_a_processor_a_row_without_an_adapter_takes_the_last_slots_weights() -> None:
    """A fault of vLLM 0.32.0 on CPUs, told in the README; where this fails it is mended, and the README too.

    Rows of the base have the index -1, which its kernels for GPUs pass over and this takes from the end.
    """
    import torch
    from vllm.lora.ops.torch_ops import bgmv_shrink

    slots, out = torch.stack([torch.zeros(1, 2, 3), torch.ones(1, 2, 3)]), torch.zeros(1, 2)
    bgmv_shrink(torch.ones(1, 3), slots, out, torch.tensor([-1]))
    assert out.tolist() == [[3.0, 3.0]]


def test_the_stock_client_streams(engine: RunningEngine) -> None:
    with openai.OpenAI(base_url=f"{engine.address}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**said("colours", "blue"))
        with client.chat.completions.create(
            **said("colours", "blue"), stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage == whole.usage


def test_an_answer_takes_the_form_that_is_asked_for(engine: RunningEngine) -> None:
    choice = {"choice": ["yes", "no"]}
    answer = engine.ask("/v1/chat/completions", said("colours", structured_outputs=choice, max_tokens=40))
    assert text_of(answer) in ("yes", "no")
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    answer = engine.ask("/v1/chat/completions", said("colours", response_format=form, max_tokens=40))
    begun = "".join(text_of(answer).split())  # untrained in JSON, it may write blanks to the end
    assert begun.startswith('{"n"')


def test_metrics_tell_of_prefixes_and_adapters(engine: RunningEngine) -> None:
    long = said("colours", "red " * 60)
    for _ in range(2):
        engine.ask("/v1/chat/completions", long)
    lines = engine.get("/metrics").splitlines()
    hits = [line for line in lines if line.startswith("vllm:prefix_cache_hits_total")]
    assert hits
    assert float(hits[0].rpartition(" ")[2]) > 0
    assert any(line.startswith("vllm:time_to_first_token_seconds_count") for line in lines)
