"""Which kernels a run computes with: chosen by its device, never by what happens to be installed alone.

A choice is a function of facts, so that it can be tested where there is no such device. On a
processor it is always the model's own attention and PyTorch's own operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from google.protobuf import json_format

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_trl.loading import FLASH, Hardware

__all__ = ["OPTION", "KernelFacts", "Kernels", "choose_kernels", "with_kernels"]

OPTION = "kernels"
"""Name of the backend option: `auto`, or `library` for what the library does by itself."""

_FLASH_CAPABILITY = (8, 0)
"""Ampere, the oldest that FlashAttention 2 is for (https://github.com/Dao-AILab/flash-attention)."""
_FLASH_HEAD = 256
"""Widest head of FlashAttention 2."""
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_FLASH_DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """What the choice depends on.

    Attributes:
        device: `cpu` or `cuda`.
        capability: Compute capability of the device; (0, 0) for a processor.
        dtype: Number type of the computation.
        method: Training method.
        installed: Names of the modules `flash_attn` and `liger_kernel` that are there.
        takes_flash: Whether the model's class takes FlashAttention.
        head_width: Width of an attention head; 0: unknown.
        is_routed: Whether it has routed experts.
        has_prompt: Whether learned embeddings stand before each row.
    """

    device: str
    capability: tuple[int, int] = (0, 0)
    dtype: str = "bfloat16"
    method: str = "sft"
    installed: frozenset[str] = frozenset()
    takes_flash: bool = True
    head_width: int = 0
    is_routed: bool = False
    has_prompt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What was chosen: the attention (empty: the model's own), whether Liger, and why in words."""

    attention: str = ""
    is_liger: bool = False
    why: str = ""


def choose_kernels(facts: KernelFacts, *, asked: str = "auto") -> Kernels:
    """Return the kernels for a device; Liger for supervised training alone, where its loss is the library's.

    Its fused loss makes no logits, which other methods read, and its experts report no load.
    """
    if facts.device == "cpu":
        return Kernels(why="a processor has no FlashAttention and no Liger")
    if asked == "library":
        return Kernels(why=f"the job asks for backend_options.{OPTION}: library")
    if facts.has_prompt:
        return Kernels(why="rows with learned embeddings before them go through the library's own")
    reasons: list[str] = []
    attention = ""
    if why_not := _against_flash(facts):
        reasons.append(f"no FlashAttention, {why_not}")
    else:
        attention = FLASH
        reasons.append("FlashAttention 2, and so no padding")
    is_liger = "liger_kernel" in facts.installed and facts.method == "sft" and not facts.is_routed
    if is_liger:
        reasons.append("Liger")
    elif "liger_kernel" not in facts.installed:
        reasons.append("no Liger, which is not installed")
    else:
        reasons.append(
            "no Liger, " + ("which reports no load of experts" if facts.is_routed else "but for sft")
        )
    return Kernels(attention=attention, is_liger=is_liger, why="; ".join(reasons))


def with_kernels(context: RunContext, hardware: Hardware) -> Hardware:
    """Choose the kernels of a run, and tell which where there was a choice."""
    spec = context.order.resolved_spec
    options = json_format.MessageToDict(spec.spec.backend_options)
    chosen = choose_kernels(_facts(spec, hardware), asked=str(options.get(OPTION, "auto")))
    if hardware.kind != "cpu":
        context.notice(f"Kernels: {chosen.why}.", severity="info")
    return replace(hardware, attention=chosen.attention, is_liger=chosen.is_liger)


def _facts(spec: ResolvedSpec, hardware: Hardware) -> KernelFacts:
    if hardware.kind == "cpu":
        return KernelFacts(device="cpu")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(spec.base.path, local_files_only=True).get_text_config()
    kind: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = ("flash_attn", "liger_kernel")
    return KernelFacts(
        device=hardware.kind,
        capability=torch.cuda.get_device_capability(),
        dtype=hardware.dtype,
        method=spec.spec.train.method.WhichOneof("method") or "sft",
        installed=frozenset(name for name in names if find_spec(name)),
        takes_flash=bool(getattr(kind, "_supports_flash_attn", False)),
        head_width=width,
        has_prompt=spec.spec.train.adapter.HasField("prompt_tuning"),
        is_routed=any(getattr(config, name, None) for name in _EXPERT_COUNTS),
    )


def _against_flash(facts: KernelFacts) -> str:
    """Return why FlashAttention is not taken; empty: it is."""
    if "flash_attn" not in facts.installed:
        return "which is not installed"
    if facts.capability < _FLASH_CAPABILITY:
        major, minor = facts.capability
        return f"which is for newer devices than one of capability {major}.{minor}"
    if facts.dtype not in _FLASH_DTYPES:
        return f"which does not compute in {facts.dtype}"
    if facts.head_width > _FLASH_HEAD:
        return f"whose heads are at most {_FLASH_HEAD} wide"
    return "" if facts.takes_flash else "which this class of model does not take"
