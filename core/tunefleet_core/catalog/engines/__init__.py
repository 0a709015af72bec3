"""What serving engines say they know, as read from the engines: names of parsers, formats and models.

Written by machine from an installed engine, kept so that the catalogue can be checked, and a bad combination
refused, where no engine is installed. An engine of another version may know other names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, cast

__all__ = ["EngineRegistry", "engine_registries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRegistry:
    """Names that an engine's own registries hold. An empty list: the engine keeps none.

    Attributes:
        engine: Name of the engine, such as `vllm`.
        distribution: What was read, as `name==version`.
        read_by: `import`: the engine was imported and asked; `ast`: its source was read.
        tool_parsers: What its option for parsers of tool calls takes.
        reasoning_parsers: What its option for parsers of thoughts takes.
        quantizations: What its option for formats takes.
        lora_ranks: What its option for the largest rank takes; a smaller adapter fits into a larger one.
        architectures: Classes of config.json's `architectures` that it can run.
        lora_architectures: Those of them that take adapters at run time.
        unread_architectures: Those that could not be asked about adapters.
        model_types: The same by config.json's `model_type`, for an engine that goes by it.
        options: Long options of its command line, without dashes; it may take any beginning of one.
    """

    engine: str
    distribution: str
    read_by: str
    tool_parsers: tuple[str, ...] = ()
    reasoning_parsers: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    lora_ranks: tuple[int, ...] = ()
    architectures: tuple[str, ...] = ()
    lora_architectures: tuple[str, ...] = ()
    unread_architectures: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Version of the engine that was read."""
        return self.distribution.partition("==")[2]


@cache
def engine_registries() -> Mapping[str, EngineRegistry]:
    """Return what was read of each engine, by its name.

    Example:
        >>> 12 in engine_registries()["vllm"].lora_ranks
        False
    """
    found = (_read(path.read_text()) for path in files(__name__).iterdir() if path.name.endswith(".json"))
    return MappingProxyType({registry.engine: registry for registry in sorted(found, key=lambda r: r.engine)})


def _read(text: str) -> EngineRegistry:
    values: dict[str, Any] = json.loads(text)
    lists: dict[str, Any] = {
        name: tuple(cast("list[Any]", value)) for name, value in values.items() if isinstance(value, list)
    }
    return EngineRegistry(**{**values, **lists})
