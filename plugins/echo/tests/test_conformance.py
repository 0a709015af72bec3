"""The echo backend obeys the whole contract."""

from tunefleet_core.testing.conformance import BackendConformance, Profile


class TestEcho(BackendConformance):
    profile = Profile(
        backend="echo",
        unsupported={"INSPECT": "it reads no rows", "EVALUATE": "it has no model to score"},
        reads_base=False,
    )
