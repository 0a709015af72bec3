"""Choose what gets an adapter, by full name, from the tensors of a base.

Full names rather than suffixes go into the resolved spec: what a suffix reaches
differs between libraries and families, a full name does not. Linear modules are named
as modules. Routed experts are no modules: transformers 5 holds all experts of a layer
in one 3-D parameter, whatever the files hold, so they are named as parameters.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog.family import Family
from tunefleet_core.catalog.loaded_names import loaded_name
from tunefleet_core.errors import TunefleetError

__all__ = [
    "ALL_LINEAR",
    "adapter_parameters",
    "expert_adapter_parameters",
    "linear_modules",
    "select_target_modules",
    "select_target_parameters",
]

ALL_LINEAR = "all-linear"
"""The target that means every linear module of the family."""

_FIELD = "train.adapter.lora.targets"
_EXPERTS_FIELD = "train.adapter.lora.experts"
_EXPERTS = "experts"
"""The part of a name that stands for routed experts, in files and loaded models alike."""
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_EXPERT_WIDTHS = ("moe_intermediate_size", "intermediate_size")
"""Fields of config.json, the first that is there counts: dense layers may have another width."""
_WEIGHT = ".weight"
_HEADS = ("lm_head", "embed_out", "score", "wte", "wpe")
# Under all-linear an adapter belongs to the language model's dense layers: routed
# experts and other towers are reached only by naming their modules.
_BEYOND_ALL_LINEAR = frozenset(
    {
        _EXPERTS,
        *("visual", "vision_tower", "vision_model", "audio_tower"),
        *("multi_modal_projector", "embed_vision", "embed_audio"),
        "mtp",  # layers that predict further tokens: published with a model, not loaded with it
    }
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def linear_modules(facts: BaseFacts) -> dict[str, tuple[int, int]]:
    """Return the modules with a 2-D weight, name to (outputs, inputs), without head and embeddings.

    Names are those of the loaded modules, which for some models are not those in the files.
    """
    return {
        loaded_name(facts.model_type, tensor.name.removesuffix(_WEIGHT)): (tensor.shape[0], tensor.shape[1])
        for tensor in facts.tensors
        if tensor.name.endswith(_WEIGHT)
        and len(tensor.shape) == 2
        and not _is_head(_last(tensor.name.removesuffix(_WEIGHT)))
    }


def select_target_modules(facts: BaseFacts, family: Family, targets: Sequence[str]) -> list[str]:
    """Return the full names of the modules that get an adapter, sorted.

    Args:
        facts: The base.
        family: Its family, which says what `all-linear` means.
        targets: `all-linear`, or names: a whole module path or the end of one, such as
            `q_proj` or `self_attn.q_proj`. Empty: `all-linear`.

    Raises:
        TunefleetError: FIELD_INVALID for a name that matches nothing, naming the nearest.
    """
    modules = linear_modules(facts)
    chosen: set[str] = set()
    for target in targets or (ALL_LINEAR,):
        matched = _all_linear(facts, modules, family) if target == ALL_LINEAR else _named(modules, target)
        if not matched:
            raise _no_match(facts, family, modules, target)
        chosen.update(matched)
    return sorted(chosen)


def adapter_parameters(facts: BaseFacts, target_modules: Iterable[str], rank: int) -> int:
    """Return the number of parameters of a LoRA adapter: rank x (inputs + outputs) per module."""
    modules = linear_modules(facts)
    return sum(rank * sum(modules[name]) for name in target_modules)


def select_target_parameters(facts: BaseFacts, family: Family) -> list[str]:
    """Return the full names of the 3-D parameters of routed experts that get an adapter, sorted.

    Which layers have experts is read from the tensors: some models keep their first
    layers, or every second one, dense. Names are those of the loaded model, whose experts
    are one parameter per layer where the files may hold a tensor for each.

    Raises:
        TunefleetError: FIELD_INVALID if the base has no routed experts.
    """
    count = _layer_count(facts)
    layers: dict[str, None] = {}
    for tensor in facts.tensors:
        parts = tensor.name.split(".")
        at = parts.index(_EXPERTS) if _EXPERTS in parts else 0
        if not at or not (_BEYOND_ALL_LINEAR - {_EXPERTS}).isdisjoint(parts):
            continue
        layer = _LAYER.search(tensor.name)
        if layer and not 0 < count <= int(layer[1]):
            layers[loaded_name(facts.model_type, tensor.name[: layer.end()])] = None
    if not layers or not family.expert_parameters:
        raise TunefleetError.field(
            _EXPERTS_FIELD,
            f"'{facts.model or facts.path}' (family '{family.name}') has no routed experts",
            hint="Leave it out, or choose a base with routed experts.",
        )
    return sorted(f"{layer}{suffix}" for layer in layers for suffix in family.expert_parameters)


def expert_adapter_parameters(facts: BaseFacts, target_parameters: Iterable[str], rank: int) -> int:
    """Return the number of parameters of a LoRA adapter on routed experts.

    Each expert of a parameter has factors of its own: experts x rank x (inputs + outputs).
    Gate and up projection are one matrix with twice the outputs.
    """
    config = _language_config(facts)
    experts, width = _first_count(config, _EXPERT_COUNTS), _first_count(config, _EXPERT_WIDTHS)
    hidden = _first_count(config, ("hidden_size",))
    return sum(
        experts * rank * (hidden + (2 * width if _last(name) == "gate_up_proj" else width))
        for name in target_parameters
    )


def _all_linear(facts: BaseFacts, modules: Iterable[str], family: Family) -> list[str]:
    layers = _layer_count(facts)
    beyond = _BEYOND_ALL_LINEAR.union(family.frozen_parts)
    return [
        name
        for name in modules
        if _last(name) in family.target_suffixes
        and beyond.isdisjoint(name.split("."))
        # DeepSeek publishes the layer that predicts a second token after the last one that is loaded.
        and not ((layer := _LAYER.search(name)) and 0 < layers <= int(layer[1]))
    ]


def _layer_count(facts: BaseFacts) -> int:
    """Return the number of layers of the language model; 0 if the config does not say."""
    return _first_count(_language_config(facts), ("num_hidden_layers",))


def _language_config(facts: BaseFacts) -> Mapping[str, object]:
    """Return the config of the language model, which some bases keep one level down."""
    config = _mapping(json.loads(facts.config_json or "{}"))
    return {**config, **_mapping(config.get("text_config"))}


def _first_count(config: Mapping[str, object], names: Iterable[str]) -> int:
    """Return the first of these fields that is a number; 0 if none is."""
    return next((value for name in names if isinstance(value := config.get(name), int)), 0)


def _mapping(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _named(modules: Iterable[str], target: str) -> list[str]:
    return [name for name in modules if name == target or name.endswith(f".{target}")]


def _no_match(facts: BaseFacts, family: Family, modules: Iterable[str], target: str) -> TunefleetError:
    if target == ALL_LINEAR:
        return TunefleetError.field(
            _FIELD,
            f"'{ALL_LINEAR}' finds no module of the family '{family.name}' in '{facts.model}': "
            f"looked for {', '.join(family.target_suffixes)}",
            hint="Name the modules in train.adapter.lora.targets.",
        )
    if _is_head(_last(target)):
        return TunefleetError.field(
            _FIELD,
            f"'{target}' is the head or an embedding, which gets no adapter",
            hint=f"Use '{ALL_LINEAR}', or name attention and MLP modules.",
        )
    suffixes = sorted({_last(name) for name in modules})
    near = difflib.get_close_matches(_last(target), suffixes, n=1, cutoff=0.5)
    nearest = f"; did you mean '{near[0]}'?" if near else ""
    return TunefleetError.field(
        _FIELD,
        f"'{target}' matches no linear module of '{facts.model}'{nearest}",
        hint=f"Use '{ALL_LINEAR}' or one of: {', '.join(suffixes) or 'none'}",
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_head(last: str) -> bool:
    return last in _HEADS or last.startswith("embed")
