"""The manifest: what this backend is and can do. Imports neither torch nor transformers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, FormatScope, MethodLimit
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_trl import compiling
from tunefleet_trl.head_tiles import HEAD_TILES
from tunefleet_trl.heads import NO_HEAD, WITHOUT_HEAD
from tunefleet_trl.methods import METHODS
from tunefleet_trl.quantising import FORMATS
from tunefleet_trl.split.options import OPTION, PLACEMENTS, SCHEMA, SCOPES
from tunefleet_trl.written import FORMAT, MODEL_TYPES

__all__ = ["tunefleet_backends"]

DISTRIBUTED = ("sft", "dpo", "ipo", "kto", "orpo", "simpo", "reward", "distill", "grpo", "rloo")
"""Methods whose loss over several processes is that of one, and those that draw their answers themselves."""

_OPTIONS_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "kernels": {
            "type": "string",
            "enum": ["auto", "library"],
            "description": "`auto`: FlashAttention 2, padding-free batches and Liger where device, model and "
            "method take them and they are installed. `library`: what transformers does by itself.",
        },
        OPTION: SCHEMA,
        compiling.OPTION: compiling.SCHEMA,
    },
    "additionalProperties": False,
}


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the trl backend."""
    quantised = _quantised()
    return (
        backend_manifest(
            name="trl",
            distribution="tunefleet-trl",
            summary="Fine-tunes with TRL and PEFT on CPU and NVIDIA GPUs: LoRA, QLoRA, DoRA, full.",
            capabilities=[
                Capability.CAPABILITY_TRAIN,
                Capability.CAPABILITY_SFT,
                Capability.CAPABILITY_LORA,
                Capability.CAPABILITY_RSLORA,
                Capability.CAPABILITY_DORA,
                Capability.CAPABILITY_EXPERT_LORA,
                Capability.CAPABILITY_PROMPT_TUNING,
                Capability.CAPABILITY_FULL_FINE_TUNING,
                *((Capability.CAPABILITY_QLORA_NF4,) if "nf4" in quantised else ()),
                Capability.CAPABILITY_CHECKPOINT_RESUME,
                Capability.CAPABILITY_CHECKPOINT_ON_REQUEST,
                Capability.CAPABILITY_EVALUATE,
                Capability.CAPABILITY_INSPECT,
                Capability.CAPABILITY_PREFLIGHT,
                Capability.CAPABILITY_MERGE,
                Capability.CAPABILITY_QUANTIZE,
                Capability.CAPABILITY_SAMPLES,
                Capability.CAPABILITY_BEST_CHECKPOINT,
                Capability.CAPABILITY_TIMED_CHECKPOINTS,
                Capability.CAPABILITY_ROLLBACK,
                Capability.CAPABILITY_GENERAL_SET,
            ],
            # MXFP4 is unpacked while loading; GPT-OSS alone is published so, and written back so.
            methods=METHODS,
            distributed_methods=DISTRIBUTED,
            choices=_choices(),
            method_limits=[MethodLimit(method="reward", model_types=WITHOUT_HEAD, reason=NO_HEAD)],
            # In compressed-tensors others are too, which needs a library that this environment lacks.
            trained_formats=[FORMAT, *quantised],
            trained_scopes=[FormatScope(format=FORMAT, model_types=MODEL_TYPES, carriers=[FORMAT])],
            exported_formats=[FORMAT],
            exported_scopes={FORMAT: MODEL_TYPES},
            device_kinds=["cpu", "cuda"],
            rank_entry="tunefleet_trl.rank:TrlRank",
            options_schema=_OPTIONS_SCHEMA,
            option_scopes=SCOPES,
            memory_placements=PLACEMENTS,
            head_tiles=HEAD_TILES,
            keep_warm=True,
            forks_ranks=sys.platform == "linux",
        ),
    )


def _choices() -> Mapping[str, Sequence[str]]:
    """Return what else of a spec is honoured, field to values; none: any."""
    optimizers = ["adafactor", "muon"]
    if find_spec("bitsandbytes"):
        optimizers += ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion", "lion_8bit"]
    return {
        "train.method.sft.packing": ["true"],
        "train.adapter.lora.init": ["pissa", "olora", *(["loftq"] if find_spec("bitsandbytes") else [])],
        "train.adapter.lora.lora_plus_ratio": [],
        "train.adapter.lora.modules_to_save": [],
        "train.gradient_checkpointing": ["true"],
        "train.neftune_alpha": [],
        "train.dtype": ["float16"],
        "train.optim.optimizer": optimizers,
        "train.optim.schedule": ["wsd"],
        "train.optim.min_lr_ratio": [],
        "train.optim.warmup_steps": [],
        "train.optim.beta1": [],
        "train.optim.beta2": [],
        "train.optim.epsilon": [],
    }


def _quantised() -> Sequence[str]:
    """Return the formats that need bitsandbytes, which this environment has on some platforms only."""
    return FORMATS if find_spec("bitsandbytes") else ()
