"""What of OpenAI's API vLLM takes is what docs/reference/engines.md says."""

from __future__ import annotations

import asyncio

import pytest
from vllm_lab import RunningEngine

from tunefleet_core.testing.openai_features import check_or_record, find_features

pytestmark = pytest.mark.slow


def test_it_takes_what_the_table_says(engine: RunningEngine) -> None:
    check_or_record("vllm", asyncio.run(find_features(engine.address, "colours")))
