"""How much of a device a run uses: model FLOPs utilisation, where the device's peak is published.

The work of a model is counted, not that of the program: recomputed activations, padding and
the optimiser are no use to anybody, so they lower the figure (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelWork", "peak_flops", "utilisation"]

_PEAKS = (
    ("b200", {"bfloat16": 2250e12, "float32": 75e12}),
    ("gh200", {"bfloat16": 989e12, "float32": 67e12}),
    ("h200", {"bfloat16": 989e12, "float32": 67e12}),
    ("h100 pcie", {"bfloat16": 756e12, "float32": 51e12}),
    ("h100 nvl", {"bfloat16": 835e12, "float32": 60e12}),
    ("h100", {"bfloat16": 989e12, "float32": 67e12}),
    ("a100", {"bfloat16": 312e12, "float32": 19.5e12}),
    ("a10g", {"bfloat16": 70e12, "float32": 31.5e12}),
    ("l40s", {"bfloat16": 362e12, "float32": 91.6e12}),
    ("l4", {"bfloat16": 121e12, "float32": 30.3e12}),
    ("rtx 4090", {"bfloat16": 165.2e12, "float32": 82.6e12}),
    ("rtx 3090", {"bfloat16": 71e12, "float32": 35.6e12}),
)
"""Dense peaks per second from the makers' data sheets, by a part of the device's name; the first match
counts. float32 is without TF32, as the trainers compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """What a token costs a model.

    Attributes:
        parameters: Parameters that a token passes through; of routed experts those it is sent to.
        trainable: Parameters with a gradient.
        layers: Blocks of attention.
        width: Width of all heads of a block together.
    """

    parameters: int
    trainable: int
    layers: int = 0
    width: int = 0

    def flops_per_token(self, length: float) -> float:
        """Return the FLOPs of a token in training, in rows of this mean length in tokens.

        Two for every parameter forwards and two for the gradient that passes through it; two more
        only where the parameter has a gradient of its own, which a frozen base has not.
        """
        return 4.0 * self.parameters + 2.0 * self.trainable + 12.0 * self.layers * self.width * length


def peak_flops(device: str, dtype: str) -> float | None:
    """Return the published dense peak of a device in FLOPs per second; None if it is not known.

    Example:
        >>> peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16")
        312000000000000.0
    """
    name = f"{device.lower()} "
    for part, peaks in _PEAKS:
        # A whole word: an L4 is no L40S, whose name holds its letters.
        if any(f"{before}{part}{after}" in f" {name}" for before in " -" for after in " -"):
            return peaks.get(dtype)
    return None


def utilisation(
    work: ModelWork, *, tokens_per_second: float, length: float, device: str, dtype: str
) -> float | None:
    """Return the share of a device's peak that the model's own work makes up; None if that is unknown.

    Args:
        work: What a token costs.
        tokens_per_second: Tokens that were trained on per second, padding left out.
        length: Mean length of the rows in tokens.
        device: The device's name as its driver tells it.
        dtype: Number type of the computation.
    """
    peak = peak_flops(device, dtype)
    if peak is None or tokens_per_second <= 0:
        return None
    return tokens_per_second * work.flops_per_token(length) / peak
