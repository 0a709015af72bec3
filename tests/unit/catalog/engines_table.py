"""Write docs/reference/engines.md from what the tests of engines found them to take.

python tests/unit/catalog/engines_table.py
"""

from __future__ import annotations

from pathlib import Path

from tunefleet_core.testing.openai_features import PARTS, Verdict, recorded

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "engines.md"

_MARKS = {
    Verdict.TAKEN: "yes",
    Verdict.REFUSED: "refused",
    Verdict.IGNORED: "**ignored**",
    Verdict.ABSENT: "no",
    Verdict.FAILED: "**fails**",
}

_WITHOUT_KERNELS = ("sglang",)
"""Engines that are asked on a processor, with stand-ins for their kernels."""
_NOT_ASKED = "not asked"

_HEAD = """# What engines take of OpenAI's API

Made by `tests/unit/catalog/engines_table.py` from what each engine did when it was asked: by
`test_it_takes_what_the_table_says` of each, which fails when it does something else. The questions stand in
`core/tunefleet_core/testing/openai_features`. A test keeps the page fresh.

- **yes**: the answer shows that it did what was asked.
- **refused**: a status of 4xx with a message.
- **ignored**: 200, and an answer as if it had not been asked for.
- **no**: there is no such path. **fails**: 5xx, or an answer that is not of OpenAI's form.

The gateway passes `chat/completions`, `completions` and `embeddings` on as they are. It answers `responses`
itself for every engine, from the stream of a chat
([decision 49](../adr/0049-responses-over-chat-completions.md)), and lists models by their tunefleet names.
"""

_FOOT = """
\\* `sglang` is asked in `plugins/sglang/tests/on_cpu`: version 0.5.23 behind our front, on a processor with
stand-ins for its kernels. It shows what HTTP side and grammars take, not what a GPU computes. It heeds `seed`
only with its `--enable-deterministic-inference`, by its source; `/v1/responses` is 404 for an adapter. A
forced call that was cut left neither call nor text, and counts as taken.
"""


def page() -> str:
    """Return the page as Markdown."""
    found = recorded()
    names = [f"{name}\\*" if name in _WITHOUT_KERNELS else name for name in found]
    rows = [["endpoint", "asked for", *names], ["---"] * (2 + len(found))]
    for part in PARTS:
        marks = [_MARKS[parts[part.name]] if part.name in parts else _NOT_ASKED for parts in found.values()]
        rows.append([f"`/v1/{part.endpoint}`", part.asked, *marks])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{_HEAD}\n{table}\n{_FOOT}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
