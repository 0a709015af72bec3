"""The mlx backend obeys the contract: the whole kit, over its object and over a real worker."""

import pytest

from tunefleet_core.testing.conformance import Profile, TrainerConformance

_WHY = "it writes what others trained"


@pytest.mark.slow  # every test of the kit over two transports
class TestMlx(TrainerConformance):
    profile = Profile(
        backend="mlx",
        unsupported=dict.fromkeys(("TRAIN", "EVALUATE", "INSPECT", "MERGE", "SERVE", "LORA_HOTSWAP"), _WHY),
    )
