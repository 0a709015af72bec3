"""Plugins: what they can implement (`hookspecs.py`), and how they are found and loaded."""

from tunefleet_core.plugins.faults import childless
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_core.plugins.loading import (
    ALLOW_VARIABLE,
    GROUP,
    PluginSet,
    find_backend,
    load_plugins,
)
from tunefleet_core.plugins.record import PluginRecord, PluginStatus

__all__ = [
    "ALLOW_VARIABLE",
    "GROUP",
    "PluginRecord",
    "PluginSet",
    "PluginStatus",
    "childless",
    "find_backend",
    "hookimpl",
    "load_plugins",
]
