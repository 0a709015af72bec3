"""Let vLLM's parsers read the tool calls that templates write. Run by the Python that has vLLM.

    PYTHON-WITH-VLLM tests/engines/parse_calls.py < forms.json

Reads a list of forms (template, parser, special tokens, end), a conversation and its tools; prints for each
form what the engine's parser finds in the turn that the template makes of the call.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "families" / "tests"))


def _written(tokenizer: Any, form: dict[str, Any], asked: dict[str, Any]) -> str:
    """Return what a model of this form writes when it calls the tool, without its end of turn."""
    options = {"tools": asked["tools"], "chat_template": form["template"], "tokenize": False}
    row = tokenizer.apply_chat_template(asked["messages"], **options)
    prompt = tokenizer.apply_chat_template(asked["messages"][:-1], add_generation_prompt=True, **options)
    assert row.startswith(prompt), "the prompt is the start of the row"
    return row[len(prompt) :].rstrip().removesuffix(form["end"])


def _parsed(form: dict[str, Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    import family_lab as lab
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    tokenizer = lab.build_tokenizer(form["special"], bos="<bos-of-test>", eos=form["end"])
    request = ChatCompletionRequest(
        model="m", messages=asked["messages"][:-1], tools=asked["tools"], tool_choice="auto"
    )
    parser = ToolParserManager.get_tool_parser(form["parser"])(tokenizer, request.tools)
    found = parser.extract_tool_calls(_written(tokenizer, form, asked), request)
    return [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in found.tool_calls
    ]


def main() -> None:
    asked = json.load(sys.stdin)
    answers: dict[str, Any] = {}
    for form in asked["forms"]:
        try:
            answers[form["name"]] = _parsed(form, asked)
        except Exception as error:  # said per form, so that one engine class does not hide the others
            answers[form["name"]] = f"{type(error).__name__}: {error}"
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
