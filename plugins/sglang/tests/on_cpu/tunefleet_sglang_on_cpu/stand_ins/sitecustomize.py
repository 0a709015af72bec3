"""Lets SGLang start where there is no GPU. NOT a way to serve: a test of what is above its kernels.

Every process of SGLang loads this before anything else (PYTHONPATH). Its kernel package and
torchvision are replaced by stand-ins that do nothing, memory is never pinned. What is left of
SGLang is itself: HTTP, scheduler, adapters, and torch for the numbers.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any, ClassVar

_NAMES = ("sgl_kernel", "torchvision")
_MAKERS = ("tensor", "empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like", "empty_strided")


class _Anything(type):
    """A class of which every attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIn(ModuleType):
    """A module of which every name is a class that does nothing."""

    __path__: ClassVar[list[str]] = []
    __version__ = "9.9.9"  # SGLang asks for the least version of its kernels

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nobody else found, for a few libraries."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in _NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def _never_pin() -> None:
    import torch

    def unpinned(make: Any) -> Any:
        @functools.wraps(make)
        def made(*values: Any, pin_memory: bool = False, **options: Any) -> Any:
            return make(*values, **options)

        return made

    for name in _MAKERS:
        setattr(torch, name, unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]


if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    sys.meta_path.append(_StandIns())
    _never_pin()
