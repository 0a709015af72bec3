"""What is said of a backend or an engine that nobody in the fleet has."""

from __future__ import annotations

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service
from tunefleet_coordinator.nobody import unknown_backend, unknown_engine
from tunefleet_core.errors import Reason, TunefleetError

_FLEET = [
    Service(backends=[InstalledBackend(manifest=BackendManifest(name=name)) for name in names])
    for names in (("trl", "echo"), ("echo", "embedded"))
]


@pytest.mark.parametrize(
    ("refusal", "says", "hint"),
    [
        (
            unknown_backend("tlr", _FLEET),
            "did you mean 'trl'?",
            "Write `backend: trl`; the fleet has echo, embedded, trl.",
        ),
        (
            unknown_backend("unsloth", _FLEET),
            "usable backend 'unsloth'.",
            "tunefleet plugins install unsloth, or write one that the fleet has: echo, embedded, trl.",
        ),
        (unknown_backend("unsloth", []), "usable backend 'unsloth'.", "tunefleet plugins install unsloth"),
        (unknown_backend("", _FLEET), "usable backend 'trl'.", "tunefleet plugins install trl"),
        (
            unknown_engine("embeded", ["echo", "embedded", "echo"]),
            "the engine 'embeded': did you mean 'embedded'?",
            "Write `engine: embedded`; the fleet has echo, embedded.",
        ),
        (
            unknown_engine("tgi", ["embedded"]),
            "the engine 'tgi'.",
            "tunefleet plugins install tgi, or write one that the fleet has: embedded.",
        ),
        (unknown_engine("", []), "No server has an engine.", "tunefleet plugins install embedded"),
    ],
)
def test_what_there_is_instead_is_named(refusal: TunefleetError, says: str, hint: str) -> None:
    assert refusal.reason is Reason.BACKEND_NOT_INSTALLED
    assert refusal.message.endswith(says)
    assert refusal.hint == hint
