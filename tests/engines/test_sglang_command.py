"""SGLang's own parser judges the command lines that the plugin builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_names import variable  # found through conftest.py

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.catalog.engines import engine_registries

sys.path.append(str(Path(__file__).resolve().parents[2] / "plugins" / "sglang"))
from tunefleet_sglang.command import engine_options

pytestmark = pytest.mark.slow  # importing SGLang takes ten seconds

_SECONDS = 300


def options(**settings: object) -> list[str]:
    """Return the command line for settings on a GPU."""
    own = settings.pop("options", {})
    found = EngineSettings(**settings)
    found.options.update(own)
    return engine_options(
        EngineOrder(
            engine="one",
            base_path="/base",
            served_name="base@1",
            device_ids=["GPU-a"],
            max_context_tokens=4096,
            settings=found,
        ),
        1234,
    )


EVERYTHING = options(
    memory_share=0.85, dtype="bfloat16", cache_dtype="fp8", tensor_parallel=2, pipeline_parallel=2,
    expert_parallel=True, max_adapters=4, max_adapter_rank=64, tool_parser="qwen25",
    reasoning_parser="qwen3", speculation=Speculation(tokens=3),
    options={"max-running-requests": 64, "disable-radix-cache": True},
)  # fmt: skip
COPIES = options(data_parallel=2)
GUESSED = [*COPIES, "--tool-call-parser", "qwen3"]
SHORTENED = [*COPIES, "--max-running-req", "7"]


@pytest.fixture(scope="module")
def parsed() -> list[dict[str, Any]]:
    """What SGLang reads, in the order in which it was asked."""
    python = os.environ.get(variable("sglang"))
    if not python:
        pytest.skip(f"{variable('sglang')} does not name a Python that has sglang")
    done = subprocess.run(
        [python, str(Path(__file__).resolve().parent / "parse_sglang_options.py")],
        input=json.dumps([EVERYTHING, COPIES, GUESSED, SHORTENED]),
        cwd=Path(python).parent,  # not this repository: its folders must not shadow SGLang's modules
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        check=True,
        text=True,
        timeout=_SECONDS,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_what_was_asked_for_is_what_sglang_reads(parsed: list[dict[str, Any]]) -> None:
    found = parsed[0]
    wanted = {
        "model_path": "/base", "served_model_name": "base@1", "host": "127.0.0.1", "port": 1234,
        "context_length": 4096, "dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3", "enable_metrics": True,
        "mem_fraction_static": 0.85, "tp_size": 2, "pp_size": 2, "ep_size": 2, "enable_lora": True,
        "max_lora_rank": 64, "max_loras_per_batch": 5, "lora_strict_loading": True,
        "lora_target_modules": ["all"], "tool_call_parser": "qwen25", "reasoning_parser": "qwen3",
        "speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 3, "max_running_requests": 64,
        "disable_radix_cache": True, "tokenizer_worker_num": 1, "max_loaded_loras": None,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_copies_are_read(parsed: list[dict[str, Any]]) -> None:
    assert (parsed[1]["dp_size"], parsed[1]["enable_lora"]) == (2, None)


def test_a_parser_that_people_guess_is_refused(parsed: list[dict[str, Any]]) -> None:
    assert "invalid choice: 'qwen3'" in parsed[2]["refused"]
    assert "qwen3" not in engine_registries()["sglang"].tool_parsers


def test_it_takes_the_beginning_of_an_option_which_is_why_names_are_checked_before(
    parsed: list[dict[str, Any]],
) -> None:
    assert parsed[3]["max_running_requests"] == 7
    assert "max-running-req" not in engine_registries()["sglang"].options
