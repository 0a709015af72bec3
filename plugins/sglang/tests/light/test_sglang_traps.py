"""What SGLang 0.5.23 serves otherwise than it was asked, held to the contract with the plugin and without.

SGLang wants a GPU, so it is a fake here that behaves as it was seen to; front and driver are the
plugin's own. The same against SGLang itself: `tests/on_cpu`.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sglang import ALPHA, RANK, FakeSglang, contract, listening, write_adapter

from tunefleet.backend.v1.server_pb2 import AdapterOrder
from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.server.contract_check import Finding, check_engine
from tunefleet_services.server.engine_http import EngineHttp
from tunefleet_sglang.driver import SglangDriver
from tunefleet_sglang.front import Front

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
NAME = "tickets@1"


@pytest.fixture
def sglang() -> FakeSglang:
    return FakeSglang()


@pytest.fixture
def address(sglang: FakeSglang) -> Iterator[str]:
    """SGLang behind the plugin's front."""
    with listening(Front(sglang, sglang.names)) as address:
        yield address


def load(address: str, folder: Path, name: str = NAME) -> None:
    asyncio.run(SglangDriver().load_adapter(address, AdapterOrder(adapter=name, path=str(folder))))


def check(address: str, *, rslora: bool = False) -> Finding:
    return asyncio.run(check_engine(EngineHttp(address), NAME, contract(rslora=rslora)))


def ask(address: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(address + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_is_served_by_its_own_name_at_the_trained_scale(
    address: str, tmp_path: Path, rslora: bool
) -> None:
    load(address, write_adapter(tmp_path / "adapter", use_rslora=rslora))
    assert check(address, rslora=rslora).result.numbers == VERIFIED


def test_without_the_driver_rslora_is_too_weak_and_refused(
    address: str, sglang: FakeSglang, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "adapter", use_rslora=True)
    assert ask(address, "/load_lora_adapter", {"lora_name": NAME, "lora_path": str(folder)})[0] == 200
    assert sglang.adapters[NAME] == ALPHA / RANK
    found = check(address, rslora=True)
    assert found.result.numbers == REFUSED
    assert found.error is not None
    assert found.error.reason is Reason.NUMBERS_MISMATCH


def test_without_the_front_the_base_answers_and_nothing_is_verified(
    sglang: FakeSglang, tmp_path: Path
) -> None:
    with listening(sglang) as address:
        load(address, write_adapter(tmp_path / "adapter"))
        assert check(address).result.numbers != VERIFIED


def test_a_front_that_forgot_the_adapter_is_refused_by_the_contract(
    sglang: FakeSglang, tmp_path: Path
) -> None:
    """The trap itself: ids are told, and the base answers under the adapter's name."""
    with listening(Front(sglang, lambda: (NAME, frozenset[str]()))) as address:
        load(address, write_adapter(tmp_path / "adapter"))
        found = check(address)
    assert found.result.numbers == REFUSED
    assert found.error is not None
    assert "The base answers under the adapter's name" in found.error.message


def test_a_name_that_is_not_loaded_is_not_answered_by_the_base(address: str, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "red"}]
    load(address, write_adapter(tmp_path / "adapter"))
    status, answer = ask(address, "/v1/chat/completions", {"model": NAME, "messages": messages})
    assert (status, answer["model"]) == (200, NAME)
    assert answer["choices"][0]["message"]["content"] == f"{ALPHA / RANK}"
    asyncio.run(SglangDriver().unload_adapter(address, NAME))
    for model in (NAME, "base:tickets@1", "no-such-model", None):
        status, answer = ask(address, "/v1/chat/completions", {"model": model, "messages": messages})
        assert status == 404, answer
        assert answer["error"]["message"]
    asyncio.run(SglangDriver().unload_adapter(address, NAME))  # not loaded: nothing to do


def test_one_client_does_not_reach_the_adapter_of_another(address: str, tmp_path: Path) -> None:
    load(address, write_adapter(tmp_path / "adapter"))
    body = {"model": "base", "messages": [], "lora_path": NAME}
    status, answer = ask(address, "/v1/chat/completions", body)
    assert status == 400
    assert "lora_path" in answer["error"]["message"]


def test_errors_have_the_form_that_clients_read(address: str) -> None:
    status, answer = ask(address, "/v1/chat/completions", {"model": "base"})
    assert status == 400
    assert answer["error"]["message"] == "/v1/chat/completions was asked wrongly"


def test_what_sglang_says_of_an_adapter_is_told(address: str, tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="max-lora-rank") as caught:
        load(address, write_adapter(tmp_path / "large", r=RANK * 2))
    assert caught.value.reason is Reason.BACKEND_FAILED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("alpha_pattern", {"q_proj": 3}),
        ("rank_pattern", {"q_proj": 3}),
        ("modules_to_save", ["lm_head"]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("bias", "all"),
    ],
)
def test_what_one_scale_cannot_say_is_refused_with_a_way_out(
    address: str, sglang: FakeSglang, tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(TunefleetError, match=field) as caught:
        load(address, write_adapter(tmp_path / "adapter", **{field: value}))
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert "Merge it" in caught.value.hint
    assert not sglang.adapters


def test_tokens_of_its_own_are_refused(address: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "added_tokens.json").write_text('{"<more>": 300}')
    with pytest.raises(TunefleetError, match="add tokens"):
        load(address, folder)


def test_a_folder_that_is_no_adapter_changes_nothing(
    address: str, sglang: FakeSglang, tmp_path: Path
) -> None:
    with pytest.raises(TunefleetError, match="No adapter found"):
        load(address, tmp_path)
    assert not sglang.asked


def test_health_is_a_token_and_not_the_slow_question_of_sglang(address: str, sglang: FakeSglang) -> None:
    assert asyncio.run(SglangDriver().is_ready(address))
    assert [path for path, _ in sglang.asked] == ["/v1/models", "/v1/completions"]
    assert not asyncio.run(SglangDriver().is_ready("http://127.0.0.1:1"))
