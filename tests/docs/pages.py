"""Read a page of the documentation as a reader does: write its files, run its code, in order.

A fenced block of a language and a file name (`yaml job.yaml`) is that file. A block of
`python` is run in one namespace per page, with `await` at the top level as in a notebook.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Block", "blocks", "run"]

_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    path: Path
    line: int
    language: str
    file: str
    text: str


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    page = path.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(page):
        language, _, file = match["info"].partition(" ")
        line = page.count("\n", 0, match.start("text"))
        found.append(Block(path=path, line=line, language=language, file=file.strip(), text=match["text"]))
    return found


async def run(block: Block, namespace: dict[str, Any], folder: Path) -> None:
    """Write a block that is a file, or run one that is code; errors show the page's own line."""
    if block.file:
        (folder / block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        source = "\n" * block.line + block.text
        code = compile(source, str(block.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)
        if inspect.isawaitable(result):
            await result
