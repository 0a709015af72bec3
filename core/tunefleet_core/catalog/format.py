"""What a quantisation format plugin says about its format.

A format is data and one question: whether a checkpoint is of it. The coordinator asks
while it resolves a job and plans memory; backends and engines name the formats that they
train on, write and load in their manifests, and the two meet in the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Checkpoint", "EngineSupport", "Format", "PackedWeight", "Recognise", "Recognised", "Variant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What can be read of a checkpoint without loading a weight.

    Attributes:
        config: config.json as it stands.
        tensors: Tensor name to number type and shape, as safetensors headers say.
        files: Names of the files in the folder.
    """

    config: Mapping[str, object]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(
        default_factory=dict[str, tuple[str, tuple[int, ...]]]
    )
    files: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight of the loaded model, and what stores it.

    Attributes:
        shape: Shape that the loaded model gives it: `[outputs, inputs]` for a linear layer.
        parts: Names of the tensors that store it: its numbers, scales, zero points.
    """

    shape: tuple[int, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A checkpoint is of a format.

    Attributes:
        variant: Name of one of the format's variants; empty if it has one only.
        carrier: What carries it in the files: `compressed-tensors`, `gguf`, `mlx` or the
            format's own name.
        bits_per_weight: Bits per quantised weight as this checkpoint stores it, scales and
            zero points included.
        weights: The quantised weights by the name that the loaded model gives them. Empty if
            the checkpoint names no tensors, or the format cannot tell.
    """

    variant: str = ""
    carrier: str = ""
    bits_per_weight: float
    weights: Mapping[str, PackedWeight] = field(default_factory=dict[str, PackedWeight])


class Recognise(Protocol):
    """Says whether a checkpoint is of the format; never raises on what it does not know."""

    def __call__(self, checkpoint: Checkpoint) -> Recognised | None:
        """Return how the checkpoint is of the format, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of a format.

    Attributes:
        name: Slug, such as `q4_k_m`.
        bits_per_weight: Bits per quantised weight, scales and zero points included.
        group_size: Weights that share a scale; 0: one scale per output channel or tensor.
    """

    name: str
    bits_per_weight: float
    group_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSupport:
    """How an engine loads a format.

    Attributes:
        flags: Command line options that the engine needs for it, exact names.
        device_kinds: Devices on which it does: `cpu`, `cuda`, `metal`.
        least_compute_capability: Oldest NVIDIA generation, such as `8.9`; empty: any.
        requires: Distribution it needs beside the engine, such as `vllm-bnb-plugin`.
        source: Where that was read or that it was tried, with the engine's version.
        is_proven: Whether a test of ours loads such a checkpoint in the engine.
    """

    flags: tuple[str, ...] = ()
    device_kinds: tuple[str, ...] = ("cuda",)
    least_compute_capability: str = ""
    requires: str = ""
    source: str
    is_proven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A quantisation format.

    Attributes:
        name: Slug, such as `nf4`.
        summary: One sentence for people.
        variants: Its forms, the usual one first; one without name if there is one only.
        recognise: Says whether a checkpoint is of it; None for one that is made while loading
            and never stored.
        engines: Engine name to how it loads such a checkpoint.
        made_by: How such weights come to be, one sentence.
        needs_calibration: Whether making it looks at activations of real rows.
        is_unpacked_to_train: Whether libraries unpack it into whole weights to train on it,
            which then take the memory of whole weights.
        source: Paper or specification.
        traps: Known traps, one sentence each.
    """

    name: str
    summary: str
    variants: tuple[Variant, ...]
    recognise: Recognise | None = None
    engines: Mapping[str, EngineSupport] = field(default_factory=dict[str, EngineSupport])
    made_by: str = ""
    needs_calibration: bool = False
    is_unpacked_to_train: bool = False
    source: str = ""
    traps: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Bits per quantised weight of the usual variant."""
        return self.variants[0].bits_per_weight
