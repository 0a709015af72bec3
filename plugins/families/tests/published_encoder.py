"""Write published/deepseek_v4.json: what the encoder published with DeepSeek-V4 makes of the references.

    TUNEFLEET_VLLM_PYTHON=/path/to/python python plugins/families/tests/published_encoder.py

DeepSeek-V4 came with an encoder in Python instead of a template. vLLM carries it; it is run there, and
what it renders is kept, so that tests need no engine.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunefleet_core.parity import REFERENCE_CONVERSATIONS, ReferenceConversation

__all__ = ["FILE", "rendered"]

FILE = Path(__file__).resolve().parent / "published" / "deepseek_v4.json"
_ENCODE = """
import importlib.metadata as metadata, importlib.util as util, json, pathlib, sys
folder = pathlib.Path(util.find_spec("vllm").origin).parent
spec = util.spec_from_file_location("encoder", folder / "tokenizers" / "deepseek_v4_encoding.py")
encoder = util.module_from_spec(spec); spec.loader.exec_module(encoder)
def encode(case):
    messages = [dict(turn) for turn in case["messages"]]
    for turn in messages:
        turn["reasoning"] = turn.pop("reasoning_content", None)
    if case["tools"]:
        if not any(turn["role"] == "system" for turn in messages):
            messages.insert(0, {"role": "system"})
        next(turn for turn in messages if turn["role"] == "system")["tools"] = case["tools"]
    mode = "thinking" if case["thinks"] else "chat"
    return encoder.encode_messages(messages, mode, drop_thinking=False, reasoning_effort="low")
(name,) = set(metadata.packages_distributions()["vllm"])
texts = [encode(case) for case in json.load(sys.stdin)]
print(json.dumps({"encoder": name + "==" + metadata.version(name), "texts": texts}))
"""
"""Loads the encoder's file alone, without the engine; thoughts stay in every turn, as in our rows."""


def cases() -> Iterator[dict[str, Any]]:
    """Yield every reference conversation and every prompt in it, with thoughts where each answer has one."""
    for conversation in REFERENCE_CONVERSATIONS:
        thinks = "thoughts" in conversation.needs
        for part in (conversation, *(prompt for _, prompt in conversation.prompts())):
            yield _case(part, thinks=thinks)


def rendered() -> dict[str, Any]:
    """Return what the file says: which encoder, the cases it was asked and its text for each."""
    return json.loads(FILE.read_text())


def _case(conversation: ReferenceConversation, *, thinks: bool) -> dict[str, Any]:
    messages = [dict(turn) for turn in conversation.messages]
    return {"messages": messages, "tools": list(conversation.tools), "thinks": thinks}


def main() -> None:
    python, asked = os.environ["TUNEFLEET_VLLM_PYTHON"], list(cases())
    done = subprocess.run(
        [python, "-c", _ENCODE],
        input=json.dumps(asked),
        cwd=Path(python).parent,
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    answer = {**json.loads(done.stdout), "cases": asked}
    FILE.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
