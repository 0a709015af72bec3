"""The trl backend obeys the contract: the whole kit, over its object and over a real worker."""

import pytest

from tunefleet_core.testing.conformance import Profile, TrainerConformance


@pytest.mark.slow  # every run starts a process that imports the whole stack
class TestTrl(TrainerConformance):
    profile = Profile(
        backend="trl",
        unsupported={"SERVE": "it trains; embedded serves", "LORA_HOTSWAP": "it trains; embedded serves"},
    )
