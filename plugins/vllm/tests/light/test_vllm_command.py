"""The command line follows from the order. That vLLM's own parser takes it is shown where vLLM is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_vllm.command import OURS, SETTINGS, engine_environment, engine_options
from tunefleet_vllm.plugin import tunefleet_backends


def order(folder: Path, *, devices: tuple[str, ...] = ("cpu-0",), **settings: object) -> EngineOrder:
    """Return an order for a base folder."""
    return EngineOrder(
        engine="one",
        base_path=str(folder),
        served_name="base",
        work_dir=str(folder),
        device_ids=devices,
        settings=EngineSettings(**settings),
    )


def value_of(options: list[str], name: str) -> str:
    """Return what follows an option."""
    return options[options.index(name) + 1]


def test_settings_become_exact_options(tmp_path: Path) -> None:
    wanted = order(
        tmp_path, devices=("GPU-a", "GPU-b"), memory_share=0.85, dtype="bfloat16", cache_dtype="fp8",
        tensor_parallel=2, pipeline_parallel=2, data_parallel=2, expert_parallel=True,
        max_adapters=4, max_adapter_rank=64, tool_parser="hermes", reasoning_parser="qwen3",
        speculation=Speculation(tokens=3),
    )  # fmt: skip
    wanted.max_context_tokens = 4096
    wanted.settings.options.update({"max-num-seqs": 64, "enforce-eager": True, "async-scheduling": False})
    options = engine_options(wanted, 1234)
    assert value_of(options, "--gpu-memory-utilization") == "0.85"
    assert value_of(options, "--max-lora-rank") == "64"
    assert value_of(options, "--max-num-seqs") == "64", "a Struct has made a float of it"
    assert value_of(options, "--tool-call-parser") == "hermes"
    assert json.loads(value_of(options, "--speculative-config"))["method"] == "ngram"
    for flag in ("--enable-expert-parallel", "--enable-lora", "--enforce-eager", "--no-async-scheduling"):
        assert flag in options
    for kind in ("tensor", "pipeline", "data"):
        assert value_of(options, f"--{kind}-parallel-size") == "2"
    assert engine_environment(wanted)["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_sockets_go_where_the_order_says_or_where_vllm_puts_them(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    assert "VLLM_RPC_BASE_PATH" not in engine_environment(wanted)
    wanted.socket_dir = "/tmp/of-this-engine"
    assert engine_environment(wanted)["VLLM_RPC_BASE_PATH"] == "/tmp/of-this-engine"


def test_what_is_left_out_is_left_to_vllm(tmp_path: Path) -> None:
    options = engine_options(order(tmp_path, tool_parser="none", tensor_parallel=1), 1234)
    for part in ("parallel", "lora", "parser", "speculative", "gpu", "kv-cache"):
        assert not [option for option in options if part in option]


@pytest.mark.parametrize(
    ("stored", "devices", "dtype"),
    [
        ("bfloat16", ("GPU-a",), "auto"),
        ("float32", ("GPU-a",), "float32"),
        ("bfloat16", ("cpu-0",), "float32"),
    ],
)
def test_weights_are_not_rounded_without_being_asked_for(
    tmp_path: Path, stored: str, devices: tuple[str, ...], dtype: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored}))
    assert value_of(engine_options(order(tmp_path, devices=devices), 1), "--dtype") == dtype


def test_the_template_is_written_as_it_is(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.chat_template = "{{ messages }}\r\n"
    file = Path(value_of(engine_options(wanted, 1), "--chat-template"))
    assert file.read_bytes() == b"{{ messages }}\r\n"


@pytest.mark.parametrize("name", ["model", "enable-lora", "no-enable-lora", "max_logprobs"])
def test_what_is_decided_cannot_be_given(tmp_path: Path, name: str) -> None:
    wanted = order(tmp_path)
    wanted.settings.options.update({name: True})
    with pytest.raises(TunefleetError, match="cannot be given") as caught:
        engine_options(wanted, 1)
    assert caught.value.reason is Reason.FIELD_INVALID


def test_the_first_of_several_hosts_is_served_by_vllms_own_options(tmp_path: Path) -> None:
    wanted = order(tmp_path, devices=("GPU-a",), tensor_parallel=2)
    wanted.settings.options.update({"nnodes": 2, "node-rank": 0, "master-addr": "10.0.0.1"})
    options = engine_options(wanted, 1)
    assert [value_of(options, f"--{name}") for name in ("nnodes", "node-rank", "master-addr")] == [
        "2",
        "0",
        "10.0.0.1",
    ]


@pytest.mark.parametrize(
    ("given", "field", "why"),
    [
        ({"nnodes": 2, "node-rank": 1, "master-addr": "10.0.0.1"}, "node-rank", "--headless"),
        ({"nnodes": 2}, "master-addr", "wanted beside nnodes"),
        ({"nnodes": "two"}, "nnodes", "whole number"),
        ({"headless": True}, "headless", "cannot be given"),
    ],
)
def test_what_a_server_cannot_own_of_several_hosts_is_refused(
    tmp_path: Path, given: dict[str, object], field: str, why: str
) -> None:
    wanted = order(tmp_path, tensor_parallel=2)
    wanted.settings.options.update(given)
    with pytest.raises(TunefleetError, match=why) as caught:
        engine_options(wanted, 1)
    assert f"options.{field}" in caught.value.message


def test_what_is_decided_here_are_options_of_vllm() -> None:
    assert set(OURS) <= set(engine_registries()["vllm"].options)


def test_the_manifest_names_its_settings_and_the_gpu_first() -> None:
    (manifest,) = tunefleet_backends()
    assert set(manifest.engine_settings) == set(SETTINGS)
    assert set(SETTINGS) < {field.name for field in EngineSettings.DESCRIPTOR.fields}
    assert manifest.device_kinds[0] == "cuda"
