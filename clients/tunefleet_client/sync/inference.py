"""Talk to what is served, through a gateway that speaks gRPC.

Sync face of `tunefleet_client.inference`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from tunefleet.inference.v1 import inference_service_pb2 as wire
from tunefleet_client import inference as _async
from tunefleet_client.inference import CHAT_DEADLINE_SECONDS, Messages
from tunefleet_client.sync.session import Session

__all__ = ["Inference"]


class Inference:
    """The deployments as a gateway offers them. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Inference) -> None:
        self._session = session
        self._inner = inner

    def chat(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        deadline_seconds: float = CHAT_DEADLINE_SECONDS,
    ) -> Generator[wire.ChatResponse]:
        """Answer a conversation, piece by piece; the last piece carries `finish_reason` and `usage`.

        Leaving the loop early (with `contextlib.closing`) ends the generation.

        Args:
            model: Name of a deployment.
            messages: The conversation; text is one user turn.
            max_tokens: Longest answer. None, as for the next three: the engine's default.
            temperature: Of the sampling; 0 is greedy.
            top_p: Share of probability that is sampled from.
            seed: Of the sampling.
            stop: Texts that end the answer.
            deadline_seconds: For the whole answer.

        Raises:
            NotFound: DEPLOYMENT_NOT_FOUND.
            Unavailable: No gateway or no engine answers.
        """
        return self._session.iterate(
            self._inner.chat(
                model,
                messages,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                stop=stop,
                deadline_seconds=deadline_seconds,
            )
        )

    def tokenize(
        self, model: str, messages: Messages | None = None, *, text: str | None = None
    ) -> tuple[int, ...]:
        """Return the token ids that the engine would see.

        Args:
            model: Name of a deployment.
            messages: A conversation, rendered with the generation prompt.
            text: Instead: plain text, without special tokens added.
        """
        return self._session.call(self._inner.tokenize(model, messages, text=text))
