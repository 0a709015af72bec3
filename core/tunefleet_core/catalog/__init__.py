"""Model families, and what can be read of a model folder without loading it."""

from tunefleet_core.catalog.base import read_base, special_token_ids
from tunefleet_core.catalog.engines import EngineRegistry, engine_registries
from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_core.catalog.format import Format
from tunefleet_core.catalog.format_registry import FormatRegistry
from tunefleet_core.catalog.hub_cache import has_weights
from tunefleet_core.catalog.layers import in_layers, require_whole_modules, whole_module_parameters
from tunefleet_core.catalog.registry import FamilyRegistry
from tunefleet_core.catalog.targets import (
    ALL_LINEAR,
    adapter_parameters,
    expert_adapter_parameters,
    linear_modules,
    select_target_modules,
    select_target_parameters,
)
from tunefleet_core.catalog.template import ChosenTemplate, choose_template, has_generation_markers
from tunefleet_core.catalog.tokenizer import tokenizer_digest

__all__ = [
    "ALL_LINEAR",
    "ChosenTemplate",
    "EngineParsers",
    "EngineRegistry",
    "Family",
    "FamilyRegistry",
    "Format",
    "FormatRegistry",
    "adapter_parameters",
    "choose_template",
    "engine_registries",
    "expert_adapter_parameters",
    "has_generation_markers",
    "has_weights",
    "in_layers",
    "linear_modules",
    "read_base",
    "require_whole_modules",
    "select_target_modules",
    "select_target_parameters",
    "special_token_ids",
    "tokenizer_digest",
    "whole_module_parameters",
]
