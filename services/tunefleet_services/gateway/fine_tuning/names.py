"""`ft:BASE:PROJECT:MODEL`: what OpenAI clients call a model that was fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FineTunedName", "fine_tuned_name", "parse_fine_tuned_name"]

_PREFIX = "ft:"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTunedName:
    """The parts of a name; `model` is the id of the model, and of its deployment."""

    base: str
    project: str
    model: str


def fine_tuned_name(base: str, project: str, model: str) -> str:
    """Return the name of a model.

    Example:
        >>> fine_tuned_name("Qwen/Qwen3-0.6B", "default", "tickets-x7k2")
        'ft:Qwen/Qwen3-0.6B:default:tickets-x7k2'
    """
    return f"{_PREFIX}{base}:{project}:{model}"


def parse_fine_tuned_name(name: str) -> FineTunedName | None:
    """Return the parts of a name; None for one that is none of these."""
    base, _, model = name.removeprefix(_PREFIX).rpartition(":")
    base, _, project = base.rpartition(":")
    if not name.startswith(_PREFIX) or not (base and project and model):
        return None
    return FineTunedName(base=base, project=project, model=model)
