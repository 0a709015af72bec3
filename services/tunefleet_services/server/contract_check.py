"""Hold an engine to the train-to-serve contract of an adapter it has just loaded.

What was checked and holds is VERIFIED, what does not hold is REFUSED. What this engine
cannot show is UNVERIFIED, with the reason: visible, and never a pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from tunefleet.deployment.v1.deployment_pb2 import ContractResult, ContractState
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.data import openai_messages
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    TOP_TOKENS,
    NumbersRecord,
    TokensRecord,
    TrainServeContract,
    check_numbers,
    check_tokens,
    judge_numbers,
)
from tunefleet_services.server.engine_http import EngineHttp

__all__ = ["Finding", "check_engine", "check_record", "check_whole_record", "unverified"]

_VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
_UNVERIFIED = ContractState.CONTRACT_STATE_UNVERIFIED
_REFUSED = ContractState.CONTRACT_STATE_REFUSED
_QUESTIONS_AT_ONCE = 4
_TOKEN_ID_PREFIX = "token_id:"

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the contract found, and the error if the adapter must not be served."""

    result: ContractResult
    error: TunefleetError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """One half of the contract: its state, a clause for people, and the error of a refusal."""

    state: ContractState.ValueType
    clause: str
    error: TunefleetError | None = None
    distance_to_tuned: float = 0.0
    distance_to_base: float = 0.0


class _CannotShowError(Exception):
    """The engine has no way to answer a question of the contract; the text says which."""


def unverified(summary: str) -> Finding:
    """Return the finding where nothing could be checked."""
    return Finding(result=ContractResult(tokens=_UNVERIFIED, numbers=_UNVERIFIED, summary=summary))


def check_record(contract: TrainServeContract, base: BaseFacts, folder: Path) -> Finding | None:
    """Compare an adapter's record with the base and with its own folder, before anything is loaded.

    Returns:
        None if they agree, else the refusal: BASE_INVALID or TEMPLATE_MISMATCH.
    """
    if contract.base_digest != base.base_digest:
        error = TunefleetError(
            Reason.BASE_INVALID,
            f"The adapter was trained on base {contract.base_digest[:12]}; "
            f"'{base.model or base.path}' is base {base.base_digest[:12]}.",
            hint="Deploy it on the base it was trained on, or train it on this one.",
            metadata={"trained": contract.base_digest, "served": base.base_digest},
        )
        return _refused(error, tokens=_UNVERIFIED, numbers=_REFUSED)
    error = _template_difference(contract, base, folder)
    return _refused(error, tokens=_REFUSED, numbers=_UNVERIFIED) if error else None


def check_whole_record(contract: TrainServeContract, base: BaseFacts, folder: Path) -> Finding | None:
    """Compare a whole model's record with its own folder; its weights are no longer those of a base.

    Returns:
        None if they agree, else the refusal: TEMPLATE_MISMATCH.
    """
    error = _template_difference(contract, base, folder)
    return _refused(error, tokens=_REFUSED, numbers=_UNVERIFIED) if error else None


async def check_engine(
    http: EngineHttp,
    model: str,
    contract: TrainServeContract,
    *,
    max_context_tokens: int = 0,
    served_dtype: str = "",
) -> Finding:
    """Ask an engine for tokens and numbers of a loaded adapter and judge both.

    Args:
        http: The engine.
        model: The adapter's name inside the engine.
        contract: The adapter's record.
        max_context_tokens: Reference prompts that leave no room for an answer are left out; 0: none.
        served_dtype: The coarsest number type the engine may compute in; empty: that of training.

    Raises:
        TunefleetError: UNAVAILABLE or BACKEND_FAILED if the engine failed rather than differed.
    """
    tokens = await _tokens(http, model, contract)
    if tokens.error is not None:
        return _refused(tokens.error, tokens=_REFUSED, numbers=_UNVERIFIED)
    numbers = await _numbers(http, model, _fitting(contract, max_context_tokens), served_dtype)
    result = ContractResult(
        tokens=tokens.state,
        numbers=numbers.state,
        distance_to_tuned=numbers.distance_to_tuned,
        distance_to_base=numbers.distance_to_base,
        summary=f"{tokens.clause} {numbers.clause}",
    )
    return Finding(result=result, error=numbers.error)


def _refused(
    error: TunefleetError, *, tokens: ContractState.ValueType, numbers: ContractState.ValueType
) -> Finding:
    return Finding(result=ContractResult(tokens=tokens, numbers=numbers, summary=error.message), error=error)


def _template_difference(
    contract: TrainServeContract, base: BaseFacts, folder: Path
) -> TunefleetError | None:
    if contract.tokenizer_digest and contract.tokenizer_digest != base.tokenizer_digest:
        return _mismatch(
            f"The adapter was trained with tokenizer {contract.tokenizer_digest[:12]}; "
            f"'{base.model or base.path}' has tokenizer {base.tokenizer_digest[:12]}."
        )
    found = hashlib.sha256(contract.template.text.encode()).hexdigest()
    if contract.template.sha256 != found:
        return _mismatch(
            f"The chat template in the adapter's record has digest {found[:12]}; "
            f"the adapter was trained with {contract.template.sha256[:12]}."
        )
    beside = folder / "chat_template.jinja"
    if beside.is_file() and beside.read_bytes() != contract.template.text.encode():
        return _mismatch("The adapter's chat_template.jinja is not the chat template it was trained with.")
    return None


def _mismatch(message: str) -> TunefleetError:
    return TunefleetError(
        Reason.TEMPLATE_MISMATCH,
        message,
        hint="Fetch the adapter again, and serve it on the base and tokenizer it was trained with.",
    )


async def _tokens(http: EngineHttp, model: str, contract: TrainServeContract) -> _Half:
    if not contract.tokens:
        return _Half(state=_UNVERIFIED, clause="Tokens unverified: the record holds no conversation.")

    async def ask(record: TokensRecord) -> list[int]:
        question = {
            "model": model,
            "messages": openai_messages(record.messages),
            "add_generation_prompt": True,
            **({"tools": list(record.tools)} if record.tools else {}),
        }
        reply = await http.post("/tokenize", question)
        if reply.lacks_route(model):
            raise _CannotShowError("the engine has no /tokenize")
        if not reply.is_ok:
            raise _mismatch(f"The engine does not render a reference conversation: {reply.message}")
        ids = (reply.body or {}).get("tokens")
        if not isinstance(ids, list):
            raise _CannotShowError("the engine's /tokenize returns no token ids")
        return [int(cast("int", item)) for item in cast("list[object]", ids)]

    try:
        served = await _ask_all(ask, contract.tokens)
        check_tokens(contract, served)
    except _CannotShowError as why:
        return _Half(state=_UNVERIFIED, clause=f"Tokens unverified: {why}.")
    except TunefleetError as error:
        if error.reason is not Reason.TEMPLATE_MISMATCH:
            raise
        return _Half(state=_REFUSED, clause=error.message, error=error)
    return _Half(
        state=_VERIFIED, clause=f"{len(served)} reference conversations have the token ids of training."
    )


async def _numbers(http: EngineHttp, model: str, contract: TrainServeContract, served_dtype: str) -> _Half:
    if not contract.numbers:
        return _Half(state=_UNVERIFIED, clause="Numbers unverified: no reference prompt fits the context.")

    async def ask(record: NumbersRecord) -> dict[int, float]:
        return await _next_token_logprobs(http, model, record.prompt_token_ids)

    try:
        measured = await _ask_all(ask, contract.numbers)
    except _CannotShowError as why:
        return _Half(state=_UNVERIFIED, clause=f"Numbers unverified: {why}.")
    verdict = judge_numbers(contract, measured, served_dtype=served_dtype)
    refusal: TunefleetError | None = None
    try:
        check_numbers(contract, measured, served_dtype=served_dtype)
    except TunefleetError as error:
        refusal = error
    return _Half(
        state=_REFUSED if refusal else _VERIFIED if verdict.is_proof else _UNVERIFIED,
        clause=verdict.summary,
        error=refusal,
        distance_to_tuned=_finite(verdict.distance_to_tuned),
        distance_to_base=_finite(verdict.distance_to_base),
    )


async def _next_token_logprobs(http: EngineHttp, model: str, prompt: Sequence[int]) -> dict[int, float]:
    question = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": TOP_TOKENS,
        "return_tokens_as_token_ids": True,
    }
    reply = await http.post("/v1/completions", question)
    if reply.lacks_route(model):
        raise _CannotShowError("the engine has no /v1/completions")
    if not reply.is_ok:
        raise _CannotShowError(f"the engine does not answer with log-probabilities: {reply.message}")
    top = _top_logprobs(reply.body)
    if top is None:
        raise _CannotShowError("the engine's answer holds no log-probabilities by token id")
    return top


def _top_logprobs(body: object) -> dict[int, float] | None:
    """Return `choices[0].logprobs.top_logprobs[0]` by token id; None if the answer has none."""
    value = body
    for step in ("choices", 0, "logprobs", "top_logprobs", 0):
        if isinstance(step, str) and isinstance(value, dict):
            value = cast("dict[str, object]", value).get(step)
        elif isinstance(step, int) and isinstance(value, list) and value:
            value = cast("list[object]", value)[step]
        else:
            return None
    if not isinstance(value, dict):
        return None
    found: dict[int, float] = {}
    for token, logprob in cast("dict[str, object]", value).items():
        number = token.removeprefix(_TOKEN_ID_PREFIX)
        if number == token or not number.isdigit() or not isinstance(logprob, int | float):
            return None
        found[int(number)] = float(logprob)
    return found


async def _ask_all(
    ask: Callable[[Question], Awaitable[Answer]], questions: Sequence[Question]
) -> list[Answer]:
    """Ask a few questions at a time; the first failure is raised as it is and ends the rest."""
    slots = asyncio.Semaphore(_QUESTIONS_AT_ONCE)

    async def one(question: Question) -> Answer:
        async with slots:
            return await ask(question)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in questions]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _fitting(contract: TrainServeContract, max_context_tokens: int) -> TrainServeContract:
    if not max_context_tokens:
        return contract
    numbers = tuple(item for item in contract.numbers if len(item.prompt_token_ids) < max_context_tokens)
    return replace(contract, numbers=numbers)


def _finite(distance: float) -> float:
    return distance if math.isfinite(distance) else 0.0
