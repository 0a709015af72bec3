"""Print what vLLM itself says it knows, as JSON. Run by the Python that has vLLM; knows nothing of tunefleet.

    PYTHON-WITH-VLLM tests/engines/read_vllm.py

Everything is read by importing the engine and asking its own registries. A model class counts as one that
takes adapters if it fulfils vLLM's own protocol for them. Libraries for pictures and sound, which model
modules import and never touch while they are read, are replaced by stand-ins where they are missing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from importlib.metadata import packages_distributions, version
from types import ModuleType
from typing import Any, ClassVar, get_args

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


class _Anything(type):
    """A class of which every attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIn(ModuleType):
    """A module of which every name is a class that does nothing."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nobody else found, for a few libraries."""

    NAMES = ("torchvision", "torchaudio", "terratorch", "decord")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in self.NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def _distribution() -> str:
    (name,) = set(packages_distributions()["vllm"])
    return f"{name}=={version(name)}"


def _model_classes() -> dict[str, Any]:
    from vllm.model_executor.models.registry import ModelRegistry

    return ModelRegistry.models


def _takes_adapters(entry: Any) -> bool | None:
    """Return whether a model class takes adapters; None if it cannot be imported here."""
    from vllm.model_executor.models.interfaces import supports_lora

    try:
        return bool(supports_lora(entry.load_model_cls()))
    except Exception as error:  # one model of hundreds may want a library or a device that is not here
        print(f"not asked: {entry}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _decoders() -> dict[str, Any]:
    from vllm.model_executor.models import registry

    kinds = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")
    names = {name for kind in kinds for name in getattr(registry, kind)}
    return {name: entry for name, entry in _model_classes().items() if name in names}


def _options() -> list[str]:
    """Return the long options of the server's own parser, without dashes."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    found = {text for action in parser._actions for text in action.option_strings if text.startswith("--")}
    return sorted(text.removeprefix("--") for text in found if not text.startswith("--no-"))


def main() -> None:
    from vllm.config.lora import MaxLoRARanks
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    sys.meta_path.append(_StandIns())
    takes = {name: _takes_adapters(entry) for name, entry in _decoders().items()}
    found = {
        "engine": "vllm",
        "distribution": _distribution(),
        "read_by": "import",
        "tool_parsers": sorted({*ToolParserManager.tool_parsers, *ToolParserManager.lazy_parsers}),
        "reasoning_parsers": sorted(
            {*ReasoningParserManager.reasoning_parsers, *ReasoningParserManager.lazy_parsers}
        ),
        "quantizations": sorted(QUANTIZATION_METHODS),
        "lora_ranks": sorted(get_args(MaxLoRARanks)),
        "architectures": sorted(takes),
        "lora_architectures": sorted(name for name, yes in takes.items() if yes),
        "unread_architectures": sorted(name for name, yes in takes.items() if yes is None),
        "options": _options(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
