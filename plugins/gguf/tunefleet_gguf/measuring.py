"""Load a GGUF file as an engine would, and say how it answers. A fresh process: nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunefleet_core.worker.aside import serve_aside
from tunefleet_gguf.llama import load

__all__ = ["measure"]


def measure(
    path: Path,
    *,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str] = (),
    stops: Sequence[int] = (),
    threads: int,
) -> dict[str, Any]:
    """Load a file and ask it.

    Returns:
        `numbers`: for each prompt `token_ids` and `logprobs` of the most likely next tokens.
        `token_ids`: how it cuts each text. `missed_stops`: those of `stops` that do not end
        an answer.
    """
    longest = max((len(prompt) for prompt in prompts), default=1)
    with load(path, longest=longest, threads=threads) as model:
        tops = [model.top_logprobs(prompt) for prompt in prompts]
        return {
            "numbers": [{"token_ids": ids, "logprobs": logprobs} for ids, logprobs in tops],
            "token_ids": [model.token_ids(text) for text in texts],
            "missed_stops": [token for token in stops if not model.ends_answers(token)],
        }


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    return measure(
        Path(task["path"]),
        prompts=task["prompts"],
        texts=task["texts"],
        stops=task["stops"],
        threads=task["threads"],
    )


if __name__ == "__main__":
    serve_aside(_work)
