"""The vllm engine obeys the contract: the kit over a real worker, with as few starts of vLLM as it takes."""

import sys
from pathlib import Path

import pytest
from vllm_lab import settings

from tunefleet_core.testing.conformance import Profile, ServerConformance


@pytest.mark.slow  # every engine takes half a minute to start
class TestVllm(ServerConformance):
    profile = Profile(
        backend="vllm",
        unsupported={
            "TRAIN": "it serves; trl trains",
            "ADAPTER_TEMPLATES": "vLLM has one template per engine",
        },
        engine_settings=settings(),
        # Named otherwise than this process's, so that there is no second round over an object of it.
        python=str(Path(sys.executable).with_name("python3")),
        limit_seconds=400.0,
    )
