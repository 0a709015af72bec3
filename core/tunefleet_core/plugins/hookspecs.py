"""The hooks a plugin can implement. All of them return typed, frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tunefleet.backend.v1.backend_pb2 import BackendManifest
    from tunefleet_core.catalog.family import Family
    from tunefleet_core.catalog.format import Format
    from tunefleet_core.recipes import JobRecipe
    from tunefleet_core.rewards import Reward

__all__ = [
    "hookimpl",
    "tunefleet_backends",
    "tunefleet_families",
    "tunefleet_formats",
    "tunefleet_recipes",
    "tunefleet_rewards",
]

hookspec = pluggy.HookspecMarker("tunefleet")
hookimpl = pluggy.HookimplMarker("tunefleet")
"""Marks a plugin's function as the implementation of a hook."""


@hookspec
def tunefleet_backends() -> Sequence[BackendManifest]:  # pyright: ignore[reportReturnType]
    """Return the backends of this distribution.

    Called in the backend's own environment by `describe`, under a time limit;
    must not import torch or mlx.
    """


@hookspec
def tunefleet_families() -> Sequence[Family]:  # pyright: ignore[reportReturnType]
    """Return model families: how to recognise one, its chat template, its LoRA targets."""


@hookspec
def tunefleet_formats() -> Sequence[Format]:  # pyright: ignore[reportReturnType]
    """Return quantisation formats: how to recognise one, its size, who loads it."""


@hookspec
def tunefleet_recipes() -> Sequence[JobRecipe]:  # pyright: ignore[reportReturnType]
    """Return recipes: job files with a page and example rows, each read by `read_recipe(folder)`."""


@hookspec
def tunefleet_rewards() -> Sequence[Reward]:  # pyright: ignore[reportReturnType]
    """Return rewards: what scores the answers of a model that learns by trying.

    Called in the backend's own environment, in the process that trains.
    """
