"""The embedded backend obeys the contract: the whole kit, over its object and over a real worker."""

import pytest
from tunefleet_core.testing.conformance import Profile, ServerConformance


@pytest.mark.slow  # every run starts a process that imports the whole stack
class TestEmbedded(ServerConformance):
    profile = Profile(backend="embedded", unsupported={"TRAIN": "it serves; trl trains"})
