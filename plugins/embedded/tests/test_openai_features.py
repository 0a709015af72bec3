"""What of OpenAI's API the embedded engine takes is what docs/reference/engines.md says."""

from __future__ import annotations

import asyncio

from conftest import Lab
from engine_process import EngineProcess
from tunefleet_core.testing.openai_features import check_or_record, find_features
from tunefleet_families import QWEN3


def test_it_takes_what_the_table_says(qwen_lab: Lab, qwen: EngineProcess) -> None:
    reply = qwen.load("asked", qwen_lab.adapters["a"], chat_template=QWEN3.chat_template)  # it shows tools
    assert reply.status == 200, reply.text
    check_or_record("embedded", asyncio.run(find_features(qwen.url, "asked")))
    qwen.unload("asked")
