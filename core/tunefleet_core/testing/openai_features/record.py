"""What engines of ours were found to take: the file that their tests write, and hold them to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tunefleet_core.testing.openai_features.verdict import Verdict

__all__ = ["check_or_record", "recorded"]

_PATH = Path(__file__).with_name("found.json")
_ASKED = "TUNEFLEET_RECORD_PROOF"


def recorded() -> dict[str, dict[str, Verdict]]:
    """Return what was found, by engine and name of the part."""
    found = cast("dict[str, dict[str, str]]", json.loads(_PATH.read_text(encoding="utf-8")))
    return {
        engine: {name: Verdict(verdict) for name, verdict in parts.items()} for engine, parts in found.items()
    }


def check_or_record(engine: str, found: Mapping[str, Verdict]) -> None:
    """Hold an engine to its record; with TUNEFLEET_RECORD_PROOF set, write the record instead.

    Raises:
        AssertionError: It takes a part that it is not said to take, or the other way round.
    """
    known = recorded()
    if os.environ.get(_ASKED):
        whole = {**known, engine: dict(found)}
        _PATH.write_text(json.dumps(dict(sorted(whole.items())), indent=1) + "\n", encoding="utf-8")
        return
    said = known.get(engine, {})
    other = {name: (said.get(name), verdict) for name, verdict in found.items() if said.get(name) != verdict}
    assert not other, f"{engine} (recorded, found): {other}; {_ASKED}=1 writes the record anew"
    assert len(said) == len(found), f"the record of {engine} has parts that are asked for no more"
