"""What tests of ours ran: the file that they write, and what it proves.

`proofs.json` beside this module is written by machine: a test that trained or served a
combination calls `record`, which does nothing unless TUNEFLEET_RECORD_PROOF is set. A cell
is proven by the test named there and by nothing else.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

__all__ = ["Proofs", "proofs", "record"]

_PATH = Path(__file__).with_name("proofs.json")
_ASKED = "TUNEFLEET_RECORD_PROOF"
_KINDS = ("trained", "served", "written", "architectures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    """What ran.

    Attributes:
        trained: `backend/method/adaptation/format/model_type` to the test that trained it.
        served: `engine/adaptation/model_type` to the test that served it.
        written: `backend/format/variant` to the test that exported it and held the result to the numbers.
        architectures: Model type to the classes that its saved models name, with the test.
    """

    trained: Mapping[str, str] = field(default_factory=dict[str, str])
    served: Mapping[str, str] = field(default_factory=dict[str, str])
    written: Mapping[str, str] = field(default_factory=dict[str, str])
    architectures: Mapping[str, str] = field(default_factory=dict[str, str])

    def training_of(
        self, backend: str, method: str, adaptation: str, quantization: str, model_types: tuple[str, ...]
    ) -> str:
        """Return the test that trained a combination on one of these model types; empty: none did."""
        keys = ("/".join((backend, method, adaptation, quantization, name)) for name in model_types)
        return next((self.trained[key] for key in keys if key in self.trained), "")

    def serving_of(self, engine: str, adaptation: str, model_types: tuple[str, ...]) -> str:
        """Return the test that served a combination on one of these model types; empty: none did."""
        keys = ("/".join((engine, adaptation, name)) for name in model_types)
        return next((self.served[key] for key in keys if key in self.served), "")

    def classes_of(self, model_types: tuple[str, ...]) -> tuple[str, ...]:
        """Return the classes that models of these types name in config.json."""
        return tuple(
            dict.fromkeys(self.architectures[name] for name in model_types if name in self.architectures)
        )


@functools.cache
def proofs() -> Proofs:
    """Return what the committed file says."""
    return Proofs(**_read())


def record(kind: str, key: str, value: str) -> None:
    """Write that a combination ran, if the file is being made again.

    Args:
        kind: `trained`, `served`, `written` or `architectures`.
        key: As `Proofs` says.
        value: The test, as pytest names it; the class for `architectures`.

    Example:
        >>> record("served", "embedded/lora/qwen3", "plugins/embedded/tests/test_matrix.py::test_served")
    """
    if not os.environ.get(_ASKED):
        return
    found = _read()
    found[kind][key] = value
    whole = {name: dict(sorted(found[name].items())) for name in _KINDS}
    _PATH.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _read() -> dict[str, dict[str, str]]:
    found = cast("dict[str, dict[str, str]]", json.loads(_PATH.read_text(encoding="utf-8")))
    return {kind: found.get(kind, {}) for kind in _KINDS}
