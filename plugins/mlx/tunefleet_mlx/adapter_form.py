"""Adapters in the two forms: PEFT's, which every engine but mlx-lm reads, and MLX's.

|            | PEFT                                | MLX                              |
|------------|-------------------------------------|----------------------------------|
| first      | `lora_A.weight` (rank, inputs)      | `lora_a` (inputs, rank)          |
| second     | `lora_B.weight` (outputs, rank)     | `lora_b` (rank, outputs)         |
| magnitude  | `lora_magnitude_vector` (outputs)   | `m` (outputs)                    |
| scale      | lora_alpha / r, or / sqrt(r)        | `scale` itself                   |
| targets    | names, or ends of names             | names, or names within a layer   |

The numbers are the same ones, transposed. Read: peft/utils/save_and_load.py of PEFT 0.21,
mlx_lm/tuner/lora.py and dora.py of mlx-lm 0.32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "AdapterShape",
    "mlx_config",
    "peft_arrays",
    "peft_config",
    "shape_of_mlx",
    "shape_of_peft",
    "mlx_arrays",
]

_PREFIX = "base_model.model."
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_OURS = {theirs: ours for ours, theirs in _PARTS.items()}

# Fields of adapter_config.json that change nothing but where they come from or how training began.
_PEFT_HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
        *("lora_dropout", "task_type", "peft_type", "r", "lora_alpha", "target_modules"),
        *("use_rslora", "use_dora", "ensure_weight_tying", "runtime_config", "lora_ga_config"),
        *("loftq_config", "eva_config", "corda_config", "init_lora_weights"),
        *("megatron_core", "qalora_group_size"),  # read only beside fields that are refused
    }
)
# What would have to be carried over and is not, unless it has one of these values.
_PEFT_NEUTRAL = (None, False, 0, "", "none", [], {})
# The initialisations that leave the base as it is.
_PEFT_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterShape:
    """What an adapter is, in either form; `modules` are full names, sorted."""

    rank: int
    scale: float
    modules: tuple[str, ...]
    dora: bool = False
    dropout: float = 0.0


def peft_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of an adapter of mlx-lm under PEFT's names, as numpy in float32.

    Raises:
        TunefleetError: BASE_INVALID for an array that is no part of a linear module's adapter.
    """
    import mlx.core as mx
    import numpy

    found: dict[str, Any] = {}
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        if part not in _PARTS or array.ndim != (1 if part == "m" else 2):
            raise _refused(f"PEFT has no place for '{name}' of shape {tuple(array.shape)}")
        plain = numpy.array(array.astype(mx.float32))
        found[f"{_PREFIX}{module}.{_PARTS[part]}"] = numpy.ascontiguousarray(plain.T)
    return found


def mlx_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of a PEFT adapter under mlx-lm's names.

    Raises:
        TunefleetError: BASE_INVALID for an array that mlx-lm has no place for.
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        plain = name.removeprefix(_PREFIX)
        part = next((theirs for theirs in _OURS if plain.endswith(f".{theirs}")), "")
        if not part or array.ndim != (1 if _OURS[part] == "m" else 2):
            raise _refused(f"mlx-lm has no place for '{name}' of shape {tuple(array.shape)}")
        found[f"{plain.removesuffix(part)}{_OURS[part]}"] = array.T
    return found


def peft_config(
    shape: AdapterShape, *, base: str, revision: str = "", rslora: bool = False
) -> dict[str, Any]:
    """Return `adapter_config.json` as PEFT reads it."""
    alpha = shape.scale * (math.sqrt(shape.rank) if rslora else shape.rank)
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # engines read an integer
        "lora_dropout": shape.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": shape.rank,
        "revision": revision or None,
        "target_modules": list(shape.modules),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "use_dora": shape.dora,
        "use_rslora": rslora,
    }


def mlx_config(shape: AdapterShape, *, layers: int) -> dict[str, Any]:
    """Return `adapter_config.json` as mlx-lm reads it."""
    return {
        "fine_tune_type": "dora" if shape.dora else "lora",
        "num_layers": layers,
        "lora_parameters": {
            "rank": shape.rank,
            "scale": shape.scale,
            "dropout": shape.dropout,
            "keys": list(shape.modules),
        },
    }


def shape_of_peft(config: Mapping[str, Any], arrays: Mapping[str, Any]) -> AdapterShape:
    """Return what a PEFT adapter is.

    Raises:
        TunefleetError: BASE_INVALID naming what of it mlx-lm could not do faithfully.
    """
    if str(config.get("peft_type")).upper() != "LORA":
        raise _refused(f"mlx-lm has no adapter of the kind {config.get('peft_type')}")
    init = config.get("init_lora_weights")
    if (init.lower() if isinstance(init, str) else init) not in _PEFT_INITS:
        raise _refused(f"init_lora_weights: {init} changed the weights of the base")
    for name, value in sorted(config.items()):
        if name not in _PEFT_HARMLESS and value not in _PEFT_NEUTRAL:
            raise _refused(f"mlx-lm has nothing like {name}: {value}")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    return AdapterShape(
        rank=rank,
        scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        modules=_modules(mlx_arrays(arrays)),
        dora=bool(config.get("use_dora")),
        dropout=float(config.get("lora_dropout") or 0.0),
    )


def shape_of_mlx(config: Mapping[str, Any], arrays: Mapping[str, Any]) -> AdapterShape:
    """Return what an adapter of mlx-lm is.

    Raises:
        TunefleetError: BASE_INVALID naming what of it PEFT could not do faithfully.
    """
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise _refused(f"fine_tune_type: {kind} is no adapter but whole weights")
    peft_arrays(arrays)  # names what has no place there
    parameters = config["lora_parameters"]
    return AdapterShape(
        rank=int(parameters["rank"]),
        scale=float(parameters["scale"]),
        modules=_modules(arrays),
        dora=kind == "dora",
        dropout=float(parameters.get("dropout") or 0.0),
    )


def _modules(names: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({name.rpartition(".")[0] for name in names}))


def _refused(why: str) -> TunefleetError:
    return TunefleetError(
        Reason.BASE_INVALID,
        f"The adapter cannot be converted faithfully: {why}.",
        hint="Merge it into its base instead: an export job with merge.",
    )
