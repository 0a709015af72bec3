"""The backend contract, by its kit: the entire file."""

from __future__ import annotations

from tunefleet_core.testing.conformance import Profile, TrainerConformance

_WHY = "it writes formats alone"


class TestCompress(TrainerConformance):
    profile = Profile(
        backend="compress",
        unsupported=dict.fromkeys(("TRAIN", "EVALUATE", "INSPECT", "MERGE", "SERVE", "LORA_HOTSWAP"), _WHY),
    )
