"""What a backend is, in Python: see `contract.py`."""

from tunefleet_core.backend.choices import choice_values
from tunefleet_core.backend.contract import (
    EngineCommand,
    EngineDriver,
    Rank,
    RunContext,
    RunStopped,
)
from tunefleet_core.backend.exporter import ExporterRank, go_quiet_and_offline
from tunefleet_core.backend.manifest import (
    backend_manifest,
    device_distance,
    has_capability,
    method_limit,
    require_capability,
    serving_scope,
    trained_formats,
    training_scope,
)
from tunefleet_core.backend.memory_layout import MemoryLayout, memory_layout, memory_placement
from tunefleet_core.backend.needs import require_capabilities, require_trainable_base
from tunefleet_core.backend.openai_engine import OpenAiDriver, devices_of, template_file
from tunefleet_core.backend.scopes import manifest_for, option_scope

__all__ = [
    "EngineCommand",
    "EngineDriver",
    "ExporterRank",
    "MemoryLayout",
    "OpenAiDriver",
    "Rank",
    "RunContext",
    "RunStopped",
    "backend_manifest",
    "choice_values",
    "device_distance",
    "devices_of",
    "go_quiet_and_offline",
    "has_capability",
    "manifest_for",
    "memory_layout",
    "memory_placement",
    "method_limit",
    "option_scope",
    "require_capabilities",
    "require_capability",
    "require_trainable_base",
    "serving_scope",
    "trained_formats",
    "training_scope",
    "template_file",
]
