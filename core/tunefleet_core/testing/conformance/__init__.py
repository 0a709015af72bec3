"""The conformance kit: every promise of the backend contract as a test.

A plugin's whole test file:

    from tunefleet_core.testing.conformance import Profile, TrainerConformance

    class TestMine(TrainerConformance):
        profile = Profile(backend="mine")

Needs pytest (`pip install tunefleet[testing]`). See docs/plugins/conformance.md.
"""

from tunefleet_core.plugins.conformance_report import KIT_VERSION
from tunefleet_core.testing.conformance.profile import Profile, Transport
from tunefleet_core.testing.conformance.suites import (
    BackendConformance,
    ServerConformance,
    TrainerConformance,
)

__all__ = [
    "KIT_VERSION",
    "BackendConformance",
    "Profile",
    "ServerConformance",
    "TrainerConformance",
    "Transport",
]
