"""The command line of an engine: from an order to the options of `sglang serve`.

Exact long names only: SGLang takes any beginning of an option that fits one alone, so a name
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
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["OURS", "SETTINGS", "engine_environment", "engine_options"]

SETTINGS = (
    *("memory_share", "dtype", "cache_dtype", "max_adapters", "max_adapter_rank"),
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"),
    *("tool_parser", "reasoning_parser", "speculation", "options"),
)
"""Fields of EngineSettings that are honoured."""

OURS = (
    *("model", "model-path", "served-model-name", "host", "port", "context-length", "chat-template"),
    *(
        "enable-lora",
        "lora-paths",
        "max-loaded-loras",
        "trust-remote-code",
        "api-key",
        "admin-api-key",
        "config",
    ),
    *("fastapi-root-path", "nnodes", "node-rank", "dist-init-addr"),
    # With these the names of models are asked of another server than the one behind `front`.
    *("tokenizer-worker-num", "enable-http2", "grpc-mode", "smg-grpc-mode", "grpc-port", "use-ray"),
    *("encoder-only", "skip-tokenizer-init", "enable-ssl-refresh", "trust-request-chat-template"),
)
"""Options that are decided here, and no deployment may give: what is served, where, and held to what."""

_NO_PARSER = "none"
_CACHE_TYPES = {"fp8": "fp8_e4m3"}
"""What engines call `fp8` alike, SGLang by its layout."""
_BESIDE_ADAPTERS = 1
"""Requests for the base take one of the slots, SGLang's help says of `--max-loras-per-batch`."""


def engine_options(order: EngineOrder, port: int) -> list[str]:
    """Return the options that serve an order on a loopback port.

    Raises:
        TunefleetError: FIELD_INVALID for an option that is decided here, CAPABILITY_UNSUPPORTED
            for an order without a GPU.
    """
    settings = order.settings
    if devices_of(order.device_ids) in ("cpu", "metal"):
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            "SGLang's kernels are for GPUs: it does not serve on this device.",
            hint="Deploy on a host with an NVIDIA GPU, or with --engine embedded.",
            metadata={"engine": "sglang", "capability": "SERVE"},
        )
    given = _options(settings)
    taken = sorted({name.replace("_", "-").removeprefix("no-") for name in given} & set(OURS))
    if taken:
        raise TunefleetError.field(
            f"spec.engine_settings.options.{taken[0]}", "is decided by what is deployed and cannot be given"
        )
    options = ["--model-path", order.base_path, "--served-model-name", order.served_name]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    if order.max_context_tokens:
        options += ["--context-length", str(order.max_context_tokens)]
    if file := template_file(order):
        options += ["--chat-template", str(file)]
    options += ["--dtype", settings.dtype or _dtype(order), "--enable-metrics"]
    options += [*_memory(settings), *_parallel(settings), *_adapters(settings), *_parsers(settings)]
    if settings.HasField("speculation"):
        options += _speculation(settings.speculation)
    for name, value in sorted(given.items()):
        options += _option(name, value)
    return options


def engine_environment(order: EngineOrder) -> dict[str, str]:
    """Return the environment of an engine: no network, its devices."""
    environment = {"HF_HUB_OFFLINE": "1"}  # a base is a folder: nothing is to be fetched
    if order.device_ids:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(order.device_ids)
    return environment


def _dtype(order: EngineOrder) -> str:
    """Return the number type to compute in where none is asked for: `auto` rounds float32 to 16 bits."""
    try:
        config = json.loads((Path(order.base_path) / "config.json").read_text())
    except (OSError, ValueError):
        return "auto"  # the engine says better what is wrong with the folder
    stored = config.get("dtype") or config.get("torch_dtype")
    return "float32" if stored == "float32" else "auto"


def _memory(settings: EngineSettings) -> Iterator[str]:
    if settings.memory_share:
        yield from ("--mem-fraction-static", f"{settings.memory_share:g}")
    if settings.cache_dtype:
        yield from ("--kv-cache-dtype", _CACHE_TYPES.get(settings.cache_dtype, settings.cache_dtype))


def _parallel(settings: EngineSettings) -> Iterator[str]:
    for name, count in (
        ("tp", settings.tensor_parallel),
        ("pp", settings.pipeline_parallel),
        ("dp", settings.data_parallel),
    ):
        if count > 1:
            yield from (f"--{name}-size", str(count))
    if settings.expert_parallel:
        # Experts are spread over the devices that split the layers: SGLang wants their number.
        yield from ("--ep-size", str(max(settings.tensor_parallel, 1)))


def _adapters(settings: EngineSettings) -> Iterator[str]:
    # SGLang loads no adapters at run time into copies of itself.
    if settings.max_adapter_rank and settings.data_parallel <= 1:
        yield "--enable-lora"
        yield from ("--max-lora-rank", str(settings.max_adapter_rank))
        yield from ("--max-loras-per-batch", str((settings.max_adapters or 1) + _BESIDE_ADAPTERS))
        yield from ("--lora-target-modules", "all")  # what adapters will want is not known yet
        yield "--lora-strict-loading"  # else weights that find no place are passed over


def _parsers(settings: EngineSettings) -> Iterator[str]:
    if settings.tool_parser not in ("", _NO_PARSER):
        yield from ("--tool-call-parser", settings.tool_parser)
    if settings.reasoning_parser not in ("", _NO_PARSER):
        yield from ("--reasoning-parser", settings.reasoning_parser)


def _speculation(asked: Speculation) -> Iterator[str]:
    usual = "STANDALONE" if asked.draft_model else "NGRAM"
    yield from ("--speculative-algorithm", asked.method.upper() or usual)
    if asked.draft_model:
        yield from ("--speculative-draft-model-path", asked.draft_model)
    yield from ("--speculative-num-draft-tokens", str(asked.tokens))


def _options(settings: EngineSettings) -> Mapping[str, object]:
    return cast("Mapping[str, object]", json_format.MessageToDict(cast("Message", settings.options)))


def _option(name: str, value: object) -> Iterator[str]:
    """Yield an option as the parser reads it; a Struct has made floats of whole numbers.

    A flag that is false is left out: what denies one has a name of its own in SGLang's list (`no-…`).
    """
    if isinstance(value, bool):
        if value:
            yield f"--{name}"
    elif isinstance(value, dict):
        yield from (f"--{name}", json.dumps(value, sort_keys=True))
    elif isinstance(value, list):
        yield from (f"--{name}", *map(_word, cast("Sequence[object]", value)))
    else:
        yield from (f"--{name}", _word(value))


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
