"""The driver of SGLang obeys the contract: the kit over a real worker, with few starts of SGLang."""

import sys
from pathlib import Path

import pytest

from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.testing.conformance import Profile, ServerConformance


@pytest.mark.slow  # every engine takes a quarter of a minute to start
class TestSglang(ServerConformance):
    profile = Profile(
        backend="sglang-on-cpu",
        unsupported={
            "TRAIN": "it serves; trl trains",
            "ADAPTER_TEMPLATES": "SGLang has one template per engine",
        },
        engine_settings=EngineSettings(max_adapters=4, max_adapter_rank=16),
        # Named otherwise than this process's, so that there is no second round over an object of it.
        python=str(Path(sys.executable).with_name("python3")),
        limit_seconds=400.0,
    )
