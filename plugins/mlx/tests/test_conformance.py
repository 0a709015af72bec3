"""The mlx backend obeys the contract: the whole kit, over its object and over a real worker."""

import pytest

from tunefleet_core.testing.conformance import BackendConformance, Profile


@pytest.mark.slow  # every test of the kit over two transports
class TestMlx(BackendConformance):
    profile = Profile(
        backend="mlx",
        unsupported={
            "QLORA_NF4": "it has its own four bits, mlx4",
            "PROMPT_TUNING": "mlx-lm has no place for learned embeddings",
            "EXPERT_LORA": "PEFT's target parameters have no counterpart",
        },
    )
