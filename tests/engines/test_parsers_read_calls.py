"""Whether an engine's parser reads the tool calls that a family's own template writes.

That a name exists proves little: a parser that finds nothing hands the call out as text. vLLM's parsers run
without a model or a device, so they are asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_names import variable  # found through conftest.py

from tunefleet_core.parity import REFERENCE_CONVERSATIONS
from tunefleet_families.plugin import FAMILIES

sys.path.append(str(Path(__file__).resolve().parents[2] / "plugins" / "families" / "tests"))
import family_lab as lab

pytestmark = pytest.mark.slow

SHOWS_NO_TOOLS = {"llama3", "deepseek_v3", "deepseek_v3/r1", "phi4/mini", "cohere2"}
"""Forms whose template writes no calls: the parser is for bases that bring a template of their own."""
READ_BY_THE_ENGINE_ITSELF = {"gpt_oss": "GptOssToolParser is a stub"}
"""vLLM reads the harmony form before a parser sees it."""
IN_REAL_TOKENIZERS = ("<|python_tag|>",)
"""Tokens that parsers insist on and templates do not write."""


def _forms() -> Iterator[dict[str, Any]]:
    for family in FAMILIES:
        texts = {"": family.chat_template} | {form.name: form.chat_template for form in family.variants}
        for variant, template in texts.items():
            if parser := family.parsers_of("vllm", variant=variant).tool:
                yield {
                    "name": f"{family.name}/{variant}".rstrip("/"),
                    "template": template,
                    "parser": parser,
                    "special": [*lab.special_tokens(template), *family.stop_tokens, *IN_REAL_TOKENIZERS],
                    "end": family.stop_tokens[0],
                }


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the installed vLLM finds in each form's call of a tool."""
    python = os.environ.get(variable("vllm"))
    if not python:
        pytest.skip(f"{variable('vllm')} does not name a Python that has vllm")
    chat = next(chat for chat in REFERENCE_CONVERSATIONS if chat.needs == {"tools"})
    asked = {
        "messages": [dict(turn) for turn in chat.messages[:2]],
        "tools": list(chat.tools),
        "forms": list(_forms()),
    }
    assert "tool_calls" in asked["messages"][1]
    done = subprocess.run(
        [python, str(Path(__file__).resolve().parent / "parse_calls.py")],
        input=json.dumps(asked),
        cwd=Path(python).parent,
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [form["name"] for form in _forms() if form["name"] not in SHOWS_NO_TOOLS])
def test_vllm_reads_the_call_that_the_template_writes(answers: dict[str, Any], name: str) -> None:
    if name in READ_BY_THE_ENGINE_ITSELF:
        assert READ_BY_THE_ENGINE_ITSELF[name] in answers[name]
        return
    assert answers[name] == [{"name": "get_weather", "arguments": {"city": "東京", "unit": "celsius"}}]
