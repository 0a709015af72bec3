"""The reward of a judge: a model behind an endpoint reads question and answer and says a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from tunefleet_core.chat_endpoint import ChatAnswer, ChatClient, secret_of
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rewards.options import OptionReader
from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["JUDGE"]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MOST_TOKENS = 512
_RUBRIC = "Judge how well the answer helps whoever asked."
_TASK = (
    "{rubric}\n\nConversation:\n{conversation}\n\nAnswer:\n{answer}\n\n"
    "Give a number from 0 (worst) to {scale:g} (best) alone on the last line."
)


def _make(options: Mapping[str, object]) -> Scorer:
    read = OptionReader(options, "url", "model", "api_key", "rubric", "scale", "timeout_seconds", "retries")
    url, model = read.text("url"), read.text("model")
    if not url.startswith(("http://", "https://")):
        raise ValueError("url must begin with http:// or https://, and often ends in /v1")
    if not model:
        raise ValueError("model is missing; name it as the endpoint calls it")
    rubric, scale = read.text("rubric", _RUBRIC), read.number("scale", 10.0)
    if scale <= 0:
        raise ValueError("scale must be greater than 0")
    client = ChatClient(
        url=url,
        model=model,
        key=secret_of(read.text("api_key"), field="api_key"),
        timeout_seconds=read.number("timeout_seconds", 60.0),
        retries=int(read.number("retries", 4)),
    )

    def score(rows: Sequence[Mapping[str, object]], answers: Sequence[str]) -> Sequence[float]:
        asked = [
            _TASK.format(rubric=rubric, conversation=_told(row), answer=answer, scale=scale)
            for row, answer in zip(rows, answers, strict=True)
        ]
        said = client.answers(
            [[{"role": "user", "content": text}] for text in asked], max_tokens=_MOST_TOKENS
        )
        return [_score_of(item, scale=scale, url=url) for item in said]

    return Scorer(score=score)


def _told(row: Mapping[str, object]) -> str:
    """Return the turns of a prompt as text."""
    turns = row.get("prompt")
    if not isinstance(turns, list):
        return str(turns or "")
    return "\n".join(
        f"{turn.get('role')}: {turn.get('content')}" for turn in cast("list[Mapping[str, object]]", turns)
    )


def _score_of(answer: ChatAnswer, *, scale: float, url: str) -> float:
    """Return the last number of what a judge says, from 0 to 1."""
    numbers = _NUMBER.findall(answer.text)
    if not numbers:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The judge at {url} gave no number: {answer.text[-200:]!r}",
            hint="Ask for the number in rubric, or take a model that follows instructions.",
            metadata={"reward": JUDGE.name, "endpoint": url},
        )
    return min(1.0, max(0.0, float(numbers[-1]) / scale))


JUDGE = Reward(
    name="judge",
    summary="What a model behind `url` and `model` thinks of the answer, from 0 to 1 (`rubric`, `scale`).",
    make=_make,
)
