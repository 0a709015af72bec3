"""Find a quantisation format by its name, and the format that a checkpoint is of."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

from tunefleet_core.catalog.format import Checkpoint, Format, Recognised, Variant
from tunefleet_core.catalog.refusal import base_invalid
from tunefleet_core.errors import TunefleetError

__all__ = ["FormatRegistry"]

_log = logging.getLogger(__name__)


class FormatRegistry:
    """The formats that plugins bring, by name.

    Conflicts between plugins are settled where plugins are loaded; of two formats with
    one name the first counts here.

    Example:
        >>> from tunefleet_core.plugins import load_plugins  # doctest: +SKIP
        >>> FormatRegistry(load_plugins(None).formats()).for_name("nf4").bits_per_weight  # doctest: +SKIP
        4.127
    """

    def __init__(self, formats: Iterable[Format] = ()) -> None:
        self._formats: dict[str, Format] = {}
        for item in formats:
            self._formats.setdefault(item.name, item)

    def names(self) -> tuple[str, ...]:
        """Return the names of the formats, sorted."""
        return tuple(sorted(self._formats))

    def formats(self) -> tuple[Format, ...]:
        """Return the formats, by name."""
        return tuple(self._formats[name] for name in self.names())

    def get(self, name: str) -> Format | None:
        """Return a format, or None if no plugin brings it."""
        return self._formats.get(name)

    def for_name(self, name: str, *, field: str) -> Format:
        """Return the format that a field of a spec names.

        Raises:
            TunefleetError: FIELD_INVALID naming the field and the nearest known format.
        """
        found = self._formats.get(name)
        if found is None:
            raise _unknown(name, self.names(), field=field, what="quantisation format")
        return found

    def variant(self, quantisation: Format, name: str, *, field: str) -> Variant:
        """Return a format's variant by name; an empty name is the usual one.

        Raises:
            TunefleetError: FIELD_INVALID naming the field and the nearest known variant.
        """
        for variant in quantisation.variants:
            if variant.name == name or not name:
                return variant
        known = tuple(variant.name for variant in quantisation.variants if variant.name)
        raise _unknown(name, known, field=field, what=f"variant of {quantisation.name}")

    def recognise(self, checkpoint: Checkpoint) -> tuple[Format, Recognised] | None:
        """Return the format that a checkpoint is of, and how; None if no format knows it.

        Raises:
            TunefleetError: BASE_INVALID naming both if two formats claim it.
        """
        found: list[tuple[Format, Recognised]] = []
        for item in self.formats():
            recognised = _ask(item, checkpoint)
            if recognised is not None:
                found.append((item, recognised))
        if len(found) > 1:
            names = [item.name for item, _ in found]
            raise base_invalid(
                f"The formats '{names[0]}' and '{names[1]}' both claim this checkpoint, so its size and its "
                "engines are unknown.",
                hint="Uninstall one of the plugins that bring them: tunefleet plugins list",
            )
        return found[0] if found else None


def _ask(item: Format, checkpoint: Checkpoint) -> Recognised | None:
    """Ask one format; one that breaks its promise not to raise is left out, so that others count."""
    if item.recognise is None:
        return None
    try:
        return item.recognise(checkpoint)
    except Exception:  # a plugin's code: whatever it raises, the base is read without it
        _log.exception("The format '%s' raised when it was asked about a checkpoint.", item.name)
        return None


def _unknown(name: str, known: tuple[str, ...], *, field: str, what: str) -> TunefleetError:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    nearest = f"; did you mean '{near[0]}'?" if near else ""
    return TunefleetError.field(
        field,
        f"no {what} is called '{name}'{nearest}",
        hint=f"Known are: {', '.join(known) or 'none'}. tunefleet catalog formats",
    )
