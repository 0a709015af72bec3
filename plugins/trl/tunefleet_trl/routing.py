"""How evenly a model of routed experts spreads its tokens over them.

A router that sends ever more tokens to few experts leaves the others untrained; the loss
alone does not show it. The library's auxiliary loss (Fedus et al. 2021, arXiv:2101.03961)
works against it and is reported beside this figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["ExpertLoad"]


class ExpertLoad:
    """Counts which experts are chosen, from the answers of the routers themselves.

    It reads what a router decided and changes nothing. Routers of types that do not tell
    the experts they chose (Llama 4) are passed over.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._counts: dict[int, torch.Tensor] = {}
        self._tokens: dict[int, torch.Tensor] = {}
        self._mask: torch.Tensor | None = None
        self.even = 1.0
        """The largest share if all experts got the same."""
        for number, router in enumerate(_routers(model)):
            self.even = int(router.top_k) / int(router.num_experts)
            router.register_forward_hook(self._hook(number, int(router.num_experts)))

    def expect(self, attention_mask: torch.Tensor | None) -> None:
        """Say which tokens of the next forward pass are no padding; shape (rows, length)."""
        self._mask = None if attention_mask is None else attention_mask.reshape(-1).bool()

    def take(self) -> float | None:
        """Return the largest share of tokens that one expert of a layer got, and begin anew.

        From chosen / experts, if all get the same, to 1. None: nothing was routed.
        """
        shares = [self._counts[number].max() / self._tokens[number] for number in self._counts]
        self.forget()
        return float(torch.stack(shares).max()) if shares else None

    def forget(self) -> None:
        """Drop what was counted."""
        self._counts.clear()
        self._tokens.clear()

    def _hook(self, number: int, experts: int) -> Any:
        def count(module: Any, arguments: Any, answer: Any) -> None:
            if not isinstance(answer, tuple) or len(answer) != 3 or not module.training:
                return
            chosen = answer[2].detach()  # (tokens, experts per token)
            weight = torch.ones_like(chosen, dtype=torch.float32)
            if self._mask is not None and self._mask.shape[0] == chosen.shape[0]:
                weight = weight * self._mask[:, None]
            found = weight.new_zeros(experts).scatter_add_(0, chosen.reshape(-1), weight.reshape(-1))
            tokens = weight[:, 0].sum()
            self._counts[number] = found + self._counts.get(number, 0)
            self._tokens[number] = tokens + self._tokens.get(number, 0)

        return count


def _routers(model: torch.nn.Module) -> Iterator[Any]:
    """Yield what chooses experts: it knows how many there are and how many a token gets."""
    for module in model.modules():
        if hasattr(module, "top_k") and hasattr(module, "num_experts") and not list(module.children()):
            yield module
