"""How an engine met a part of the API."""

from __future__ import annotations

from enum import StrEnum

from tunefleet_core.testing.conformance.openai_http import Answer
from tunefleet_core.testing.openai_features.asking import Asking, Refused
from tunefleet_core.testing.openai_features.parts import PARTS, Part

__all__ = ["Verdict", "find_features"]

_NO_SUCH_PATH = (404, 405, 501)


class Verdict(StrEnum):
    """What became of a request that asks for a part of the API.

    Attributes:
        TAKEN: It did what it says.
        REFUSED: A 4xx with a message: the caller knows.
        IGNORED: 200, and an answer as if it had not been asked for.
        ABSENT: The engine has no such path.
        FAILED: A 5xx, or an answer without the fields that OpenAI's has.
    """

    TAKEN = "taken"
    REFUSED = "refused"
    IGNORED = "ignored"
    ABSENT = "absent"
    FAILED = "failed"


async def find_features(address: str, model: str) -> dict[str, Verdict]:
    """Ask a running engine for every part and judge its answers; by name of the part.

    Args:
        address: Where it listens, without a path.
        model: A name that it answers to, of a model that has a chat template. What the model
            says does not matter: random weights do.

    Raises:
        OSError: Nobody answers there.
    """
    asking = Asking(address=address, model=model)
    return {part.name: await _judge(part, asking) for part in PARTS}


async def _judge(part: Part, asking: Asking) -> Verdict:
    try:
        return Verdict.TAKEN if await part.is_taken(asking) else Verdict.IGNORED
    except Refused as refused:
        return _of_refusal(refused.answer)
    except (KeyError, IndexError, TypeError, ValueError):  # not the form of OpenAI's answers
        return Verdict.FAILED


def _of_refusal(answer: Answer) -> Verdict:
    if answer.status in _NO_SUCH_PATH:
        return Verdict.ABSENT
    is_told = 400 <= answer.status < 500 and b"message" in answer.body
    return Verdict.REFUSED if is_told else Verdict.FAILED
