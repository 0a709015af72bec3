"""The bytes of all tensors that live, and the most there were, as torch hands them out."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveMemory"]


class LiveMemory(TorchDispatchMode):
    """Sees every operation of its thread, also of backward passes on a processor.

    Attributes:
        live_bytes: Of the storages that were made while this was on, and live.
        peak_bytes: The most since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self._meet(tensor.untyped_storage())
        return result

    def _meet(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            if self._known[key][0]() is not None:
                return
            self._part(key, self._known[key][0])
        size = int(storage.nbytes())
        self._known[key] = (weakref.ref(storage, lambda gone: self._part(key, gone)), size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _part(self, key: int, gone: weakref.ref[Any]) -> None:
        if key in self._known and self._known[key][0] is gone:
            self.live_bytes -= self._known.pop(key)[1]
