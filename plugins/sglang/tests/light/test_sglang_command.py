"""The command line follows from the order. That SGLang's own parser takes it: `tests/engines`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_sglang.command import OURS, SETTINGS, engine_environment, engine_options
from tunefleet_sglang.plugin import tunefleet_backends

KNOWN = set(engine_registries()["sglang"].options)


def order(folder: Path, *, devices: tuple[str, ...] = ("GPU-a",), **settings: object) -> EngineOrder:
    """Return an order for a base folder."""
    return EngineOrder(
        engine="one",
        base_path=str(folder),
        served_name="base@1",
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
        tensor_parallel=2, pipeline_parallel=2, expert_parallel=True, max_adapters=4, max_adapter_rank=64,
        tool_parser="qwen25", reasoning_parser="qwen3", speculation=Speculation(tokens=3),
    )  # fmt: skip
    wanted.max_context_tokens = 4096
    wanted.chat_template = "{{ messages }}\r\n"
    wanted.settings.options.update({"max-running-requests": 64, "disable-radix-cache": True})
    options = engine_options(wanted, 1234)
    for name, value in (
        *(("mem-fraction-static", "0.85"), ("kv-cache-dtype", "fp8_e4m3"), ("context-length", "4096")),
        *(("tp-size", "2"), ("pp-size", "2"), ("ep-size", "2"), ("max-lora-rank", "64")),
        *(("tool-call-parser", "qwen25"), ("reasoning-parser", "qwen3"), ("speculative-algorithm", "NGRAM")),
        ("max-running-requests", "64"),
        ("max-loras-per-batch", "5"),
    ):
        assert value_of(options, f"--{name}") == value
    assert {"--enable-lora", "--disable-radix-cache", "--lora-strict-loading"} <= set(options)
    assert Path(value_of(options, "--chat-template")).read_bytes() == b"{{ messages }}\r\n"
    assert {option.removeprefix("--") for option in options if option.startswith("--")} <= KNOWN
    assert engine_environment(wanted)["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_what_is_left_out_is_left_to_sglang(tmp_path: Path) -> None:
    options = engine_options(order(tmp_path, tool_parser="none", tensor_parallel=1), 1234)
    for part in ("-size", "lora", "parser", "speculative", "mem-", "kv-cache"):
        assert not [option for option in options if part in option]


def test_copies_of_an_engine_take_no_adapters(tmp_path: Path) -> None:
    options = engine_options(order(tmp_path, data_parallel=2, max_adapter_rank=64), 1234)
    assert value_of(options, "--dp-size") == "2"
    assert "--enable-lora" not in options, "SGLang loads none at run time into copies of itself"


@pytest.mark.parametrize(("stored", "dtype"), [("bfloat16", "auto"), ("float32", "float32")])
def test_weights_are_not_rounded_without_being_asked_for(tmp_path: Path, stored: str, dtype: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored}))
    assert value_of(engine_options(order(tmp_path), 1), "--dtype") == dtype


@pytest.mark.parametrize("name", ["model_path", "enable-lora", "tokenizer-worker-num", "max-loaded-loras"])
def test_what_is_decided_cannot_be_given(tmp_path: Path, name: str) -> None:
    wanted = order(tmp_path)
    wanted.settings.options.update({name: True})
    with pytest.raises(TunefleetError, match="cannot be given") as caught:
        engine_options(wanted, 1)
    assert caught.value.reason is Reason.FIELD_INVALID


def test_a_processor_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="kernels are for GPUs") as caught:
        engine_options(order(tmp_path, devices=("cpu-0",)), 1)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert "embedded" in caught.value.hint


def test_what_is_decided_here_are_options_of_sglang() -> None:
    assert set(OURS) <= KNOWN


def test_the_manifest_names_its_settings_and_gpus_alone() -> None:
    (manifest,) = tunefleet_backends()
    assert set(manifest.engine_settings) == set(SETTINGS)
    assert set(SETTINGS) < {field.name for field in EngineSettings.DESCRIPTOR.fields}
    assert list(manifest.device_kinds) == ["cuda"]
