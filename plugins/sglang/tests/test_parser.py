"""SGLang's own parser judges the command lines that the plugin builds: by a Python that has SGLang."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_sglang.command import engine_options

pytestmark = pytest.mark.slow  # importing SGLang takes ten seconds

_READERS = Path(__file__).resolve().parents[3] / "tests" / "engines"


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

Read = Callable[[list[str]], Any]


@pytest.fixture(scope="module")
def read() -> Read:
    """What reads the options of `sglang serve`."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args


def refusal(read: Read, argv: list[str]) -> str:
    """Return what the parser says of options that it does not take."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit):
        read(argv)
    return said.getvalue().splitlines()[-1]


def test_what_was_asked_for_is_what_sglang_reads(read: Read) -> None:
    found = read(EVERYTHING)
    wanted = {
        "model_path": "/base", "served_model_name": "base@1", "host": "127.0.0.1", "port": 1234,
        "context_length": 4096, "dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3", "enable_metrics": True,
        "mem_fraction_static": 0.85, "tp_size": 2, "pp_size": 2, "ep_size": 2, "enable_lora": True,
        "max_lora_rank": 64, "max_loras_per_batch": 5, "lora_strict_loading": True,
        "lora_target_modules": ["all"], "tool_call_parser": "qwen25", "reasoning_parser": "qwen3",
        "speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 3, "max_running_requests": 64,
        "disable_radix_cache": True, "tokenizer_worker_num": 1, "max_loaded_loras": None,
    }  # fmt: skip
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_copies_are_read(read: Read) -> None:
    found = read(COPIES)
    assert (found.dp_size, found.enable_lora) == (2, None)


def test_a_parser_that_people_guess_is_refused(read: Read) -> None:
    assert "invalid choice: 'qwen3'" in refusal(read, [*COPIES, "--tool-call-parser", "qwen3"])
    assert "qwen3" not in engine_registries()["sglang"].tool_parsers


def test_it_takes_the_beginning_of_an_option_which_is_why_names_are_checked_before(read: Read) -> None:
    assert read([*COPIES, "--max-running-req", "7"]).max_running_requests == 7
    assert "max-running-req" not in engine_registries()["sglang"].options


def test_it_says_what_is_kept_of_it(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that submits are checked against, as `tests/engines/engine_names.py` writes them."""
    monkeypatch.syspath_prepend(str(_READERS))
    from engine_names import registry_file
    from read_sglang import read as names

    assert json.loads(registry_file("sglang").read_text()) == names()
