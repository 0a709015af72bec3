"""Muon for matrices, AdamW for the rest, as one optimiser.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises the momentum of a matrix;
it is for the matrices of hidden layers alone. Its step is scaled to the size of AdamW's (Liu et al. 2025,
arXiv:2502.16982, section 2.2), so that one learning rate suits both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["MuonWithAdamW", "muon_groups"]

_IS_MUON = "is_muon"


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers of the library that share groups and state with this one.

    A schedule, a checkpoint and whoever adds a group see one optimiser.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        """Take groups of parameters, each with `is_muon` and a `weight_decay`."""
        matrices = [group for group in groups if group[_IS_MUON]]
        others = [group for group in groups if not group[_IS_MUON]]
        self._parts: dict[bool, torch.optim.Optimizer] = {}
        made: list[dict[str, Any]] = []
        if matrices:
            self._parts[True] = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
            made += self._parts[True].param_groups
        if others:
            self._parts[False] = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps)
            made += self._parts[False].param_groups
        super().__init__(made, {})
        self._tie()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, made from one of this optimiser."""
        super().add_param_group(param_group)
        self._tie()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that this optimiser gave."""
        super().load_state_dict(state_dict)
        self._tie()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss

    def _tie(self) -> None:
        """Have the parts work on this optimiser's own groups and state: loading makes new ones."""
        for is_muon, part in self._parts.items():
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group[_IS_MUON] == is_muon]


def muon_groups(model: Any, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters of a model in groups: hidden matrices, other weights, vectors.

    Embeddings and head are tables of tokens, not maps between layers: they are AdamW's.
    """
    tables = {
        id(parameter)
        for table in (model.get_input_embeddings(), model.get_output_embeddings())
        if table is not None
        for parameter in table.parameters()
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = [item for item in trained if item.ndim == 2 and id(item) not in tables]
    known = {id(item) for item in hidden}
    rest = [item for item in trained if id(item) not in known]
    groups = (
        (hidden, True, weight_decay),
        ([item for item in rest if item.ndim > 1], False, weight_decay),
        ([item for item in rest if item.ndim <= 1], False, 0.0),
    )
    return [
        {"params": params, _IS_MUON: is_muon, "weight_decay": decay}
        for params, is_muon, decay in groups
        if params
    ]
