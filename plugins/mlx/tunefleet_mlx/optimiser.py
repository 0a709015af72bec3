"""AdamW as the library behind `trl` steps it: corrected for its start, no decay of norms and biases."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["build_optimizer", "clip", "restore_state", "state_arrays"]

_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)


def build_optimizer(weights: Any, *, weight_decay: float) -> Any:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with state for the given weights."""
    import mlx.optimizers as optim

    plain = optim.AdamW(0.0, weight_decay=0.0, bias_correction=True)
    optimizer: Any = plain
    if weight_decay:
        decayed = optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
        optimizer = optim.MultiOptimizer(
            [decayed, plain], filters=[lambda path, _: not _UNDECAYED.search(path)]
        )
    optimizer.init(weights)
    return optimizer


def clip(gradients: Any, most: float) -> tuple[Any, Any]:
    """Return gradients whose common norm is at most `most` (0: unbounded), and their norm before."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    squares = [mx.square(value.astype(mx.float32)).sum() for _, value in tree_flatten(gradients)]
    norm = mx.sqrt(mx.stack(squares).sum())
    if not most:
        return gradients, norm
    factor = mx.minimum(most / (norm + 1e-6), 1.0)
    return tree_map(lambda value: value * factor, gradients), norm


def state_arrays(optimizer: Any) -> dict[str, Any]:
    """Return everything an optimiser keeps, by name."""
    from mlx.utils import tree_flatten

    return dict(tree_flatten(optimizer.state))


def restore_state(optimizer: Any, arrays: dict[str, Any]) -> None:
    """Give a fresh optimiser of the same weights what `state_arrays` told.

    Raises:
        ValueError: it is the state of other weights.
    """
    from mlx.utils import tree_unflatten

    own = {name: value.shape for name, value in state_arrays(optimizer).items()}
    given = {name: value.shape for name, value in arrays.items()}
    if own != given:
        other = min(set(own.items()) ^ set(given.items()))
        raise ValueError(f"the optimiser's state does not fit at '{other[0]}'")
    optimizer.state = tree_unflatten([(name, arrays[name]) for name in own])
