"""vLLM's own parser and configuration judge the command lines that are built here."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_vllm.command import engine_options

pytestmark = pytest.mark.slow  # importing vLLM takes ten seconds


@pytest.fixture(scope="session")
def parser() -> Any:
    """The parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def parsed(parser: Any, settings: EngineSettings) -> Any:
    """Return the engine arguments that vLLM makes of settings on two GPUs."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    order = EngineOrder(
        engine="one", base_path="/base", served_name="base@1", device_ids=["GPU-a"], settings=settings
    )
    order.max_context_tokens = 4096
    return AsyncEngineArgs.from_cli_args(parser.parse_args(engine_options(order, 1234)))


def test_what_was_asked_for_is_what_vllm_reads(parser: Any) -> None:
    settings = EngineSettings(
        memory_share=0.85, dtype="bfloat16", cache_dtype="fp8", tensor_parallel=2, pipeline_parallel=2,
        data_parallel=2, expert_parallel=True, max_adapters=4, max_adapter_rank=64,
        reasoning_parser="qwen3", tool_parser="hermes", speculation=Speculation(tokens=3),
    )  # fmt: skip
    settings.options.update({"max-num-seqs": 64, "enforce-eager": True, "enable-prefix-caching": False})
    found = parsed(parser, settings)
    assert (found.model, found.served_model_name, found.max_model_len) == ("/base", ["base@1"], 4096)
    assert (found.tensor_parallel_size, found.pipeline_parallel_size, found.data_parallel_size) == (2, 2, 2)
    assert (found.enable_expert_parallel, found.gpu_memory_utilization) == (True, 0.85)
    assert (found.dtype, found.kv_cache_dtype) == ("bfloat16", "fp8")
    assert (found.enable_lora, found.max_loras, found.max_lora_rank) == (True, 4, 64)
    assert (found.max_num_seqs, found.enforce_eager, found.enable_prefix_caching) == (64, True, False)
    assert found.speculative_config == {
        "method": "ngram",
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 4,
    }
    assert found.max_logprobs == 20


def test_the_first_of_two_hosts_is_read(parser: Any) -> None:
    settings = EngineSettings(tensor_parallel=4)
    settings.options.update({"nnodes": 2, "master-addr": "10.0.0.1", "master-port": 29600})
    found = parsed(parser, settings)
    assert (found.nnodes, found.node_rank, found.tensor_parallel_size) == (2, 0, 4)
    assert (found.master_addr, found.master_port) == ("10.0.0.1", 29600)


def test_parsers_are_read(parser: Any) -> None:
    order = EngineOrder(base_path="/base", served_name="base", settings=EngineSettings(tool_parser="hermes"))
    found = parser.parse_args(engine_options(order, 1))
    assert (found.tool_call_parser, found.enable_auto_tool_choice) == ("hermes", True)


def test_it_takes_the_beginning_of_an_option_which_is_why_names_are_checked_before(parser: Any) -> None:
    assert parser.parse_args(["--max-num-se", "7"]).max_num_seqs == 7
    known = engine_registries()["vllm"].options
    assert "max-num-se" not in known
    long = {text for action in parser._actions for text in action.option_strings if text.startswith("--")}
    assert {text for text in long if not text.startswith("--no-")} == {f"--{name}" for name in known}
