"""Which layers of a base get an adapter, and which modules beside it are trained whole."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import cast

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog.loaded_names import loaded_name
from tunefleet_core.errors import TunefleetError
from tunefleet_core.layer_range import layer_range

__all__ = ["in_layers", "require_whole_modules", "whole_module_parameters"]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_FIELD = "train.adapter.lora.layers"
_WHOLE_FIELD = "train.adapter.lora.modules_to_save"
_TIED = ("lm_head", "embed_tokens")


def in_layers(names: Iterable[str], layers: Sequence[str]) -> list[str]:
    """Return the names of modules or parameters that lie in the given layers; all if none are given.

    Raises:
        TunefleetError: FIELD_INVALID for layers in which there is nothing to adapt.
    """
    every = list(names)
    if not layers or not every:
        return every
    placed = [(int(found[1]), name) for name in every if (found := _LAYER.search(name))]
    chosen: list[str] = []
    for index, text in enumerate(layers):
        wanted = layer_range(text) or range(0)
        matched = [name for number, name in placed if number in wanted]
        if not matched:
            last = max((number for number, _ in placed), default=0)
            raise TunefleetError.field(
                f"{_FIELD}[{index}]",
                f"'{text}' has no target: there are targets in layers up to {last}",
                hint=f"Give layers from 0 to {last}, such as {max(0, last // 2)}-{last}.",
            )
        chosen.extend(matched)
    return sorted(set(chosen))


def require_whole_modules(facts: BaseFacts, modules: Sequence[str]) -> None:
    """Refuse modules to be trained whole that the base does not have, or that are one matrix with another.

    Raises:
        TunefleetError: FIELD_INVALID naming the nearest module, or the tie.
    """
    names = {name.rpartition(".")[2] for name in _weights(facts)}
    is_tied = bool(_config(facts).get("tie_word_embeddings"))
    for index, module in enumerate(modules):
        field = f"{_WHOLE_FIELD}[{index}]"
        if is_tied and module in _TIED:
            raise TunefleetError.field(
                field,
                f"'{module}' cannot be trained whole: the base's embeddings and its head are one matrix",
                hint="Leave it out, or train every weight: leave the adapter out.",
            )
        if module not in names:
            near = difflib.get_close_matches(module, sorted(names), n=1)
            raise TunefleetError.field(
                field,
                f"the base has no module '{module}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                hint="Name a module by the last part of its name, such as lm_head.",
            )


def whole_module_parameters(facts: BaseFacts, modules: Sequence[str]) -> int:
    """Return the number of parameters of modules that are trained whole."""
    return sum(size for name, size in _weights(facts).items() if name.rpartition(".")[2] in modules)


def _weights(facts: BaseFacts) -> dict[str, int]:
    """Return the modules with a weight, and how many numbers each has."""
    return {
        loaded_name(facts.model_type, tensor.name.removesuffix(".weight")): math.prod(tensor.shape)
        for tensor in facts.tensors
        if tensor.name.endswith(".weight")
    }


def _config(facts: BaseFacts) -> dict[str, object]:
    try:
        config: object = json.loads(facts.config_json or "{}")
    except ValueError:
        return {}
    return cast("dict[str, object]", config) if isinstance(config, dict) else {}
