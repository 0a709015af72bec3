"""Talk to what is served, through a gateway that speaks gRPC.

The coordinator only says where the gateways are; no token of an answer passes
through it. A chat is not repeated when it fails: the engine may have answered
half of it already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import grpc.aio

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind, ServiceState
from tunefleet.inference.v1 import inference_service_pb2 as wire
from tunefleet.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tunefleet.type.v1.conversation_pb2 import ContentPart, Conversation, Message
from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure, typed
from tunefleet_client.fleet import Fleet
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

__all__ = ["CHAT_DEADLINE_SECONDS", "Inference", "Messages"]

CHAT_DEADLINE_SECONDS = 600.0
"""For a whole answer; a long one of a large model takes minutes."""

Messages: TypeAlias = str | Sequence[Mapping[str, str] | Message]
"""A conversation, oldest turn first, each `{"role": …, "content": …}`; text is one user turn."""


class Inference:
    """The deployments as a gateway offers them. Every method raises TunefleetError."""

    def __init__(self, connection: Connection, fleet: Fleet) -> None:
        self._connection = connection
        self._fleet = fleet
        self._gateway: Connection | None = None

    async def chat(
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
    ) -> AsyncGenerator[wire.ChatResponse]:
        """Answer a conversation, piece by piece; the last piece carries `finish_reason` and `usage`.

        Leaving the loop early (with `contextlib.aclosing`) ends the generation.

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
        request = wire.ChatRequest(
            model=_short(model),
            messages=_turns(messages),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        gateway = await self._find()
        call = _stub(gateway).Chat(request, timeout=deadline_seconds, metadata=gateway.metadata)
        try:
            async for response in call:
                yield response
        except asyncio.CancelledError:
            gateway.raise_if_closed_beneath()
            raise
        except grpc.aio.AioRpcError as error:
            raise self._failure(gateway, error) from error
        finally:
            call.cancel()

    async def tokenize(
        self, model: str, messages: Messages | None = None, *, text: str | None = None
    ) -> tuple[int, ...]:
        """Return the token ids that the engine would see.

        Args:
            model: Name of a deployment.
            messages: A conversation, rendered with the generation prompt.
            text: Instead: plain text, without special tokens added.
        """
        if (messages is None) == (text is None):
            raise typed(TunefleetError.field("messages", "give a conversation or a text, one of the two."))
        request = wire.TokenizeRequest(model=_short(model))
        if text is not None:
            request.text = text
        elif messages is not None:
            request.conversation.CopyFrom(Conversation(messages=_turns(messages)))
        gateway = await self._find()
        try:
            return tuple((await gateway.unary(_stub(gateway).Tokenize, request)).token_ids)
        except TunefleetError as error:
            self._forget(error)
            raise

    async def _find(self) -> Connection:
        """Return a gateway that is heard from; the same one until it stops answering."""
        if self._gateway is None:
            addresses = [
                service.endpoints["inference"]
                for service in await self._fleet.list()
                if service.kind == ServiceKind.SERVICE_KIND_GATEWAY
                and service.state != ServiceState.SERVICE_STATE_LOST
                and service.endpoints.get("inference")
            ]
            if not addresses:
                raise failure(
                    Reason.UNAVAILABLE,
                    "No gateway of this fleet takes inference calls.",
                    hint="tunefleet fleet list; a gateway that is attached names its endpoints there.",
                )
            self._gateway = self._connection.to(addresses[0], peer="The gateway")
        return self._gateway

    def _failure(self, gateway: Connection, error: grpc.aio.AioRpcError) -> TunefleetError:
        known = gateway.failure(error)
        self._forget(known)
        return known

    def _forget(self, error: TunefleetError) -> None:
        """Look for a gateway again at the next call: this one may have moved."""
        if error.reason in (Reason.UNAVAILABLE, Reason.TIME_LIMIT):
            self._gateway = None


def _stub(gateway: Connection) -> InferenceServiceAsyncStub:
    return InferenceServiceStub(gateway.channel)


def _short(model: str) -> str:
    return model.rsplit("/", 1)[-1] if model.startswith(("deployments/", "projects/")) else model


def _turns(messages: Messages) -> list[Message]:
    if isinstance(messages, str):
        return [_turn("user", messages)]
    return [
        item if isinstance(item, Message) else _from_mapping(item, index)
        for index, item in enumerate(messages)
    ]


def _from_mapping(item: Mapping[str, str], index: int) -> Message:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise typed(TunefleetError.field(f"messages[{index}]", "needs a 'role' and a 'content', both text."))
    return _turn(role, content)


def _turn(role: str, text: str) -> Message:
    return Message(role=role, content=[ContentPart(text=text)])
