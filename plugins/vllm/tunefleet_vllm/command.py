"""The command line of an engine: from an order to the options of `vllm serve`.

Exact long names only: vLLM takes any beginning of an option that fits one alone, so a name
that is nearly right would set something else. Its parser judges the result in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from google.protobuf import json_format
from google.protobuf.message import Message

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.backend import devices_of, template_file
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import TOP_TOKENS

__all__ = ["OURS", "SETTINGS", "engine_environment", "engine_options"]

SETTINGS = (
    *("memory_share", "dtype", "cache_dtype", "max_adapters", "max_adapter_rank"),
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"),
    *("tool_parser", "reasoning_parser", "speculation", "options"),
)
"""Fields of EngineSettings that are honoured."""

OURS = (
    *("model", "served-model-name", "host", "port", "max-model-len", "chat-template", "enable-lora"),
    *("lora-modules", "max-logprobs", "trust-remote-code", "api-key", "config", "headless", "root-path"),
)
"""Options that are decided here, and no deployment may give: what is served, where, and held to what."""

_NO_PARSER = "none"
_LOOKUP_TOKENS = 4
"""Longest n-gram that is looked for in the prompt, vLLM's own example."""
_CPU_CACHE_GIB = 1


def engine_options(order: EngineOrder, port: int) -> list[str]:
    """Return the options that serve an order on a loopback port.

    Raises:
        TunefleetError: FIELD_INVALID for an option that is decided here.
    """
    settings = order.settings
    given = _options(settings)
    taken = sorted({name.replace("_", "-").removeprefix("no-") for name in given} & set(OURS))
    if taken:
        raise TunefleetError.field(
            f"spec.engine_settings.options.{taken[0]}", "is decided by what is deployed and cannot be given"
        )
    _require_first_host(given)
    options = ["--model", order.base_path, "--served-model-name", order.served_name]
    options += ["--host", "127.0.0.1", "--port", str(port), "--max-logprobs", str(TOP_TOKENS)]
    if order.max_context_tokens:
        options += ["--max-model-len", str(order.max_context_tokens)]
    if file := template_file(order):
        options += ["--chat-template", str(file)]
    options += ["--dtype", settings.dtype or _dtype(order)]
    options += [*_memory(settings), *_parallel(settings), *_adapters(settings), *_parsers(settings)]
    if settings.HasField("speculation"):
        options += ["--speculative-config", json.dumps(_speculation(settings.speculation), sort_keys=True)]
    for name, value in sorted(given.items()):
        options += _option(name, value)
    return options


def engine_environment(order: EngineOrder) -> dict[str, str]:
    """Return the environment of an engine: adapters at run time, no network, its devices."""
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # a base is a folder: nothing is to be fetched
        "VLLM_DO_NOT_TRACK": "1",
    }
    if order.socket_dir:  # the system's temporary folder would keep those of one that was killed
        environment["VLLM_RPC_BASE_PATH"] = order.socket_dir
    if devices_of(order.device_ids) == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(order.device_ids)
    else:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(_CPU_CACHE_GIB)
        # Left to itself it binds each process to cores of its choice, whatever else this machine computes,
        # and does not start where cores are fewer than processes.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return environment


def _require_first_host(given: Mapping[str, object]) -> None:
    """Refuse what is not the answering one of several hosts.

    A server owns what it starts: its devices are booked, its health is a token, its end is proven. Hosts
    after the first answer nothing, and are started, watched and ended by whoever owns them.
    """
    if given.get("node-rank"):
        raise TunefleetError.field(
            "spec.engine_settings.options.node-rank",
            "must be 0: the host that answers is served here; start the others there by hand, with "
            "`vllm serve ... --headless --node-rank N` and the same model, sizes, nnodes and master-addr",
        )
    hosts = given.get("nnodes", 1)
    if not isinstance(hosts, float | int) or hosts < 1 or hosts != int(hosts):
        raise TunefleetError.field("spec.engine_settings.options.nnodes", "must be a whole number of hosts")
    if hosts > 1 and not given.get("master-addr"):
        raise TunefleetError.field(
            "spec.engine_settings.options.master-addr",
            "is wanted beside nnodes: an address of this host that the others reach",
        )


def _dtype(order: EngineOrder) -> str:
    """Return the number type to compute in where none is asked for.

    vLLM's `auto` takes float32 weights down to 16 bits without being told to, and a processor
    computes in what training there computed in.
    """
    if devices_of(order.device_ids) != "cuda":
        return "float32"
    try:
        config = json.loads((Path(order.base_path) / "config.json").read_text())
    except (OSError, ValueError):
        return "auto"  # the engine says better what is wrong with the folder
    stored = config.get("dtype") or config.get("torch_dtype")
    return "float32" if stored == "float32" else "auto"


def _memory(settings: EngineSettings) -> Iterator[str]:
    if settings.memory_share:
        yield from ("--gpu-memory-utilization", f"{settings.memory_share:g}")
    if settings.cache_dtype:
        yield from ("--kv-cache-dtype", settings.cache_dtype)


def _parallel(settings: EngineSettings) -> Iterator[str]:
    for name, count in (
        ("tensor", settings.tensor_parallel),
        ("pipeline", settings.pipeline_parallel),
        ("data", settings.data_parallel),
    ):
        if count > 1:
            yield from (f"--{name}-parallel-size", str(count))
    if settings.expert_parallel:
        yield "--enable-expert-parallel"


def _adapters(settings: EngineSettings) -> Iterator[str]:
    if settings.max_adapter_rank:
        yield "--enable-lora"
        yield from ("--max-lora-rank", str(settings.max_adapter_rank))
        yield from ("--max-loras", str(settings.max_adapters or 1))


def _parsers(settings: EngineSettings) -> Iterator[str]:
    if settings.tool_parser not in ("", _NO_PARSER):
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", settings.tool_parser)
    if settings.reasoning_parser not in ("", _NO_PARSER):
        yield from ("--reasoning-parser", settings.reasoning_parser)


def _speculation(asked: Speculation) -> dict[str, object]:
    found: dict[str, object] = {"num_speculative_tokens": asked.tokens}
    if asked.draft_model:
        found["model"] = asked.draft_model
    if asked.method or not asked.draft_model:
        found["method"] = asked.method or "ngram"
    if found.get("method") == "ngram":
        found["prompt_lookup_max"] = _LOOKUP_TOKENS
    return found


def _options(settings: EngineSettings) -> Mapping[str, object]:
    return cast("Mapping[str, object]", json_format.MessageToDict(cast("Message", settings.options)))


def _option(name: str, value: object) -> Iterator[str]:
    """Yield an option as the parser reads it; a Struct has made floats of whole numbers."""
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    elif isinstance(value, dict):
        yield from (f"--{name}", json.dumps(value, sort_keys=True))
    elif isinstance(value, list):
        yield from (f"--{name}", *map(_word, cast("Sequence[object]", value)))
    else:
        yield from (f"--{name}", _word(value))


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
