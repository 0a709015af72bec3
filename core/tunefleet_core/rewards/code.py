"""The reward of a person's own Python file: off, unless who runs the trainer says otherwise.

The file runs as the training does, with all that it may. So a job cannot bring one by itself: the
trainer has to be started with TUNEFLEET_ALLOW_REWARD_CODE=1. At submit the file is read and never
run; its digest goes into the resolved spec, and only those bytes run.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from tunefleet_core.rewards.options import OptionReader
from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["ALLOWED", "CODE"]

ALLOWED = "TUNEFLEET_ALLOW_REWARD_CODE"
"""The variable of the trainer's environment that is `1` where files may be run."""

_MOST_BYTES = 1024 * 1024

_Function = Callable[[Sequence[Mapping[str, object]], Sequence[str]], Sequence[float]]


def _make(options: Mapping[str, object]) -> Scorer:
    read = OptionReader(options, "file", "function")
    path, name = Path(read.text("file")), read.text("function", "score")
    if os.environ.get(ALLOWED) != "1":
        raise ValueError(
            f"a file of Python code is not run on this trainer; who runs it allows that by starting it with "
            f"{ALLOWED}=1"
        )
    if not path.is_absolute() or not path.is_file():
        raise ValueError(f"file '{path}' is not there; name a Python file on the trainer's host")
    source = path.read_bytes()
    if len(source) > _MOST_BYTES:
        raise ValueError(f"file '{path.name}' has more than {_MOST_BYTES} bytes")
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"file '{path.name}' is no Python: {error}") from error
    if not any(isinstance(item, ast.FunctionDef) and item.name == name for item in tree.body):
        raise ValueError(f"file '{path.name}' has no function {name}(rows, answers)")
    loaded: list[_Function] = []

    def score(rows: Sequence[Mapping[str, object]], answers: Sequence[str]) -> Sequence[float]:
        if not loaded:  # at the first answer: never while a job is only looked at
            space: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
            exec(compile(tree, str(path), "exec"), space)
            loaded.append(cast("_Function", space[name]))
        return loaded[0](rows, answers)

    return Scorer(score=score, files=(str(path),))


CODE = Reward(
    name="python",
    summary="What a function of a Python file says (`file`, `function`: default `score(rows, answers)`).",
    make=_make,
)
