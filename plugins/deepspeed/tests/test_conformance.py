"""The deepspeed backend obeys the contract: the whole kit, over a real worker."""

import pytest

from tunefleet_core.testing.conformance import Profile, TrainerConformance, Transport


@pytest.mark.slow  # every run starts a process that imports the whole stack
class TestDeepSpeed(TrainerConformance):
    profile = Profile(
        backend="deepspeed",
        only=Transport.WORKER,  # what lies between is trl's, which is examined both ways
        unsupported={
            "DORA": "its magnitudes are norms of whole weights, which no device has",
            "PROMPT_TUNING": "not tried with split weights",
            "EXPERT_LORA": "not tried with split experts",
            "QLORA_NF4": "packed weights cannot be split",
            "EVALUATE": "trl answers for it",
            "MERGE": "it leaves adapters; trl merges them",
            "SERVE": "embedded serves what it trains",
            "LORA_HOTSWAP": "embedded serves what it trains",
        },
    )
