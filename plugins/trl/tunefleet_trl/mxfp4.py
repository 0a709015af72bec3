"""Write routed experts as MXFP4, in the layout in which GPT-OSS is published.

Four-bit floating point numbers (one of sign, two of exponent, one of mantissa) in blocks of
32 that share a power of two (OCP Microscaling Formats 1.0, 2023). No library writes this
layout on a CPU: transformers reads it only, llmcompressor writes another carrier. Attention,
router and embeddings stay as they are, as in the published files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunefleet_core.errors import TunefleetError

__all__ = ["BLOCK", "quantize_experts", "write_mxfp4_folder"]

BLOCK = 32

_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What a code of three bits stands for; the fourth is the sign."""
_LARGEST_EXPONENT = 2
"""Of the largest value, 6."""
_BIAS, _LEAST, _MOST = 127, 0, 254
"""Of the stored exponent; 255 stands for no number."""
_SIGN = 8
_EXPERTS = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
_INDEX = "model.safetensors.index.json"
_FILE_MODE = 0o644
_KEPT = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def quantize_experts(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round the experts of a layer to MXFP4.

    Weights that were MXFP4 before, and did not change, come out as the same numbers.

    Args:
        weight: As loaded: (experts, inputs, outputs), in whole numbers. The inputs are a
            multiple of 32.

    Returns:
        Blocks, bytes of two numbers each, the first in the low half: (experts, outputs,
        inputs / 32, 16); and the exponent of each block, biased by 127: (experts, outputs,
        inputs / 32).

    Raises:
        TunefleetError: FIELD_INVALID if the inputs cannot be divided into blocks.
    """
    if weight.shape[1] % BLOCK:
        raise TunefleetError.field(
            "export.quantize.format",
            f"mxfp4 rounds blocks of {BLOCK} weights, and experts with {weight.shape[1]} inputs have no such",
            hint="Choose a format with smaller groups: tunefleet catalog formats",
        )
    each = [_quantize(expert) for expert in weight]  # one at a time: the intermediate numbers are large
    return torch.stack([blocks for blocks, _ in each]), torch.stack([scales for _, scales in each])


def write_mxfp4_folder(source: Path, target: Path, *, before_each: Callable[[], None] = lambda: None) -> None:
    """Write a model folder with its experts in MXFP4 into an existing, empty folder.

    Args:
        source: Safetensors, config and tokenizer in whole numbers, as transformers saves them.
        target: Where to. `contract.json` is not copied: its numbers are no longer true.
        before_each: Called before each file; it may raise to stop.
    """
    index: dict[str, str] = {}
    total = 0
    for path in sorted(source.iterdir()):
        before_each()
        if path.suffix == ".safetensors":
            tensors = _packed(path)
            save_file(tensors, target / path.name, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, path.name)
            total += sum(tensor.nbytes for tensor in tensors.values())
        elif path.is_file() and path.name not in ("config.json", "contract.json", _INDEX):
            shutil.copyfile(path, target / path.name)
    if len(set(index.values())) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (target / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": _KEPT}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in target.iterdir():
        path.chmod(_FILE_MODE)


def _packed(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - a file of safetensors is no mapping
            tensor = file.get_tensor(name)
            if name.endswith(_EXPERTS):
                tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = quantize_experts(tensor)
            else:
                tensors[name] = tensor
    return tensors


def _quantize(expert: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round one expert, (inputs, outputs)."""
    values = expert.to(torch.float32).T.contiguous().reshape(expert.shape[1], -1, BLOCK)
    low = _least_exponent(values)
    codes, error = _rounded(values, low)
    # One exponent more rounds the small numbers coarser and cuts no large one off: the better of both.
    high = (low + 1).clamp(max=_MOST - _BIAS)
    other, other_error = _rounded(values, high)
    is_better = other_error < error
    codes = torch.where(is_better[..., None], other, codes)
    exponents = torch.where(is_better, high, low)
    pairs = codes.reshape(*codes.shape[:-1], BLOCK // 2, 2)
    return pairs[..., 0] | pairs[..., 1] << 4, (exponents + _BIAS).to(torch.uint8)


def _least_exponent(values: torch.Tensor) -> torch.Tensor:
    """Return the exponent of each block that brings its largest number to 4 or more, below 8."""
    _, exponent = torch.frexp(values.abs().amax(dim=-1))  # the mantissa is from 0.5 to 1
    return (exponent - 1 - _LARGEST_EXPONENT).clamp(_LEAST - _BIAS, _MOST - _BIAS)


def _rounded(values: torch.Tensor, exponents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest codes, the even one of two as near, and the squared error of each block."""
    grid = torch.tensor(_VALUES, device=values.device)
    middles = (grid[1:] + grid[:-1]) / 2
    scale = torch.exp2(exponents.to(torch.float64)).to(torch.float32)[..., None]
    scaled = (values / scale).clamp(-_VALUES[-1], _VALUES[-1])
    size = scaled.abs()
    codes = torch.bucketize(size, middles)
    is_tie = size == middles[codes.clamp(max=len(middles) - 1)]
    codes = codes + (is_tie & (codes % 2 == 1))
    signs = torch.where((scaled < 0) & (codes > 0), _SIGN, 0)
    error = ((grid[codes] * scale - values.abs()) ** 2).sum(dim=-1)
    return (codes | signs).to(torch.uint8), error
