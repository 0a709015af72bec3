"""Find the family of a base by the `model_type` of its config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tunefleet_core.catalog.family import Family
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["FamilyRegistry"]


class FamilyRegistry:
    """The families that plugins bring, by `model_type`.

    Conflicts between plugins are settled where plugins are loaded; of two families
    with one model type the first counts here.

    Example:
        >>> from tunefleet_core.plugins import load_plugins  # doctest: +SKIP
        >>> FamilyRegistry(load_plugins(None).families()).for_model_type("qwen3").name  # doctest: +SKIP
        'qwen3'
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self._families: dict[str, Family] = {}
        self._unsupported: dict[str, Family] = {}
        for family in families:
            for model_type in family.unsupported_types:
                self._unsupported.setdefault(model_type, family)
            for model_type in family.model_types:
                self._families.setdefault(model_type, family)

    def model_types(self) -> tuple[str, ...]:
        """Return every known model type, sorted."""
        return tuple(sorted(self._families))

    def for_model_type(self, model_type: str) -> Family:
        """Return the family of a model type.

        Raises:
            TunefleetError: BASE_INVALID naming the nearest known type, or what does not support a
                type that is known.
        """
        if family := self._families.get(model_type):
            return family
        if family := self._unsupported.get(model_type):
            raise _unsupported(model_type, family)
        near = difflib.get_close_matches(model_type, self._families, n=1, cutoff=0.5)
        nearest = f"; the nearest known one is '{near[0]}'" if near else ""
        known = ", ".join(self.model_types()) or "none"
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"No family plugin knows the model type '{model_type}'{nearest}.",
            hint=f"Install a plugin that brings this family (known types: {known}): tunefleet plugins list",
            metadata={"model_type": model_type, "nearest": near[0] if near else ""},
        )


def _unsupported(model_type: str, family: Family) -> TunefleetError:
    why = family.unsupported_types[model_type]
    return TunefleetError(
        Reason.BASE_INVALID,
        f"Bases of the type '{model_type}' (family '{family.name}') are unsupported by {why}.",
        hint=f"Choose a base of a type of this family that is supported: {', '.join(family.model_types)}.",
        metadata={"model_type": model_type, "family": family.name, "unsupported_by": why.partition(":")[0]},
    )
