"""The record kept with every adapter: what serving has to reproduce.

`contract.json` lies beside the adapter's weights and is written once, by the trainer,
from what it measured. Nobody edits it: the coordinator's manifest covers its digest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, cast

from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "CONTRACT_FILE",
    "CONTRACT_FILE_VERSION",
    "TOP_TOKENS",
    "AdapterRecord",
    "NumbersRecord",
    "PrecisionRecord",
    "TemplateRecord",
    "TokensRecord",
    "TopLogprobs",
    "TrainServeContract",
    "read_contract",
    "write_contract",
]

CONTRACT_FILE = "contract.json"
"""Name of the record in an adapter's folder."""

CONTRACT_FILE_VERSION = 2
"""Version of the file; a reader refuses what it does not know. From 2 on messages may hold tool calls."""

_READ_VERSIONS = (1, 2)

TOP_TOKENS = 20
"""Tokens recorded per reference prompt: the most that every engine returns on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """The chat template trained with; `frozen_time_seconds` is what its clock answered."""

    text: str
    sha256: str
    stop_token_ids: tuple[int, ...]
    frozen_time_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecord:
    """The adapter's shape; `effective_scale` is the factor its update was trained with.

    That factor is alpha / rank, or alpha / sqrt(rank) with `rslora`. With `dora` each
    output of a target module has a trained magnitude as well. `target_parameters` are the
    3-D parameters of routed experts that were adapted beside the modules. With `virtual_tokens`
    it is no update of modules at all, but so many learned embeddings before every prompt.
    """

    rank: int
    alpha: float
    effective_scale: float
    target_modules: tuple[str, ...]
    rslora: bool = False
    dora: bool = False
    target_parameters: tuple[str, ...] = ()
    virtual_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecord:
    """How the base computed: `float32` or `bfloat16`, and its quantisation; empty: none."""

    dtype: str
    quantization: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensRecord:
    """Messages, and the prompt ids the trainer makes of them with the generation prompt.

    Messages and tools are as chat templates take them; arguments of calls are objects.
    """

    messages: tuple[Mapping[str, object], ...]
    prompt_token_ids: tuple[int, ...]
    tools: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprobs:
    """The most likely next tokens, best first, with natural log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    def as_mapping(self) -> dict[int, float]:
        """Return log-probability by token id."""
        return dict(zip(self.token_ids, self.logprobs, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersRecord:
    """What base and tuned model answer to one reference prompt."""

    prompt_token_ids: tuple[int, ...]
    base: TopLogprobs
    tuned: TopLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainServeContract:
    """Everything a server must reproduce before it may serve an adapter or a trained model.

    `adapter` is None for whole weights; `base_digest` is then the base they were trained
    from, not the digest of the folder the record lies in. `unquantized` holds the same
    prompts again, on the base in whole numbers, if it was quantised in training: that is
    how most engines serve it. Empty: not measured.
    """

    base_digest: str
    tokenizer_digest: str
    template: TemplateRecord
    adapter: AdapterRecord | None
    precision: PrecisionRecord
    tokens: tuple[TokensRecord, ...]
    numbers: tuple[NumbersRecord, ...]
    unquantized: tuple[NumbersRecord, ...] = ()
    version: int = CONTRACT_FILE_VERSION


def write_contract(contract: TrainServeContract, folder: Path) -> Path:
    """Write `contract.json` into a folder and return its path."""
    path = folder / CONTRACT_FILE
    # Keys keep their order: templates print those of tools and arguments as they stand.
    text = json.dumps(asdict(contract), ensure_ascii=False, allow_nan=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read_contract(path: Path | str) -> TrainServeContract:
    """Read `contract.json`, from the file itself or from the adapter's folder.

    Raises:
        TunefleetError: CONTRACT_INCOMPATIBLE for a version this code does not know,
            NUMBERS_MISMATCH if the file is missing or damaged: without it nothing can
            be proven about the adapter.
    """
    source = Path(path)
    if source.is_dir():
        source = source / CONTRACT_FILE
    try:
        fields = _Fields(json.loads(source.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        _damaged(source, str(error), cause=error)
    version = fields.version()
    if version not in _READ_VERSIONS:
        raise TunefleetError(
            Reason.CONTRACT_INCOMPATIBLE,
            f"{source.name} has version {version}, this side reads up to {CONTRACT_FILE_VERSION}.",
            hint="Upgrade the service that serves the adapter, or train the adapter again.",
            metadata={"path": str(source), "version": str(version)},
        )
    try:
        return _contract(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _damaged(source, f"{type(error).__name__}: {error}", cause=error)


def _damaged(path: Path, why: str, *, cause: BaseException) -> NoReturn:
    raise TunefleetError(
        Reason.NUMBERS_MISMATCH,
        f"The train-to-serve record '{path}' cannot be read: {why}.",
        hint="Fetch the adapter again, or train it again; without the record it cannot be checked.",
        metadata={"path": str(path)},
    ) from cause


class _Fields:
    """A JSON object, read field by field with the type each must have."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {type(value).__name__}")
        self._value = cast("dict[str, object]", value)

    def version(self) -> object:
        return self._value.get("version")

    def text(self, name: str) -> str:
        value = self._value[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string")
        return value

    def integer(self, name: str) -> int:
        return _integer(self._value[name], name)

    def integer_or_none(self, name: str) -> int:
        """Return an integer that older files lack; 0 for none."""
        return self.integer(name) if name in self._value else 0

    def number(self, name: str) -> float:
        return _number(self._value[name], name)

    def flag(self, name: str) -> bool:
        """Return a boolean that older files lack."""
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be true or false")
        return value

    def items(self, name: str) -> Sequence[object]:
        value = self._value[name]
        if not isinstance(value, list):
            raise TypeError(f"{name} must be a list")
        return cast("list[object]", value)

    def items_or_none(self, name: str) -> Sequence[object]:
        """Return a list that older files lack."""
        return self.items(name) if name in self._value else ()

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(_integer(item, name) for item in self.items(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(_number(item, name) for item in self.items(name))

    def fields(self, name: str) -> _Fields:
        return _Fields(self._value[name])

    def fields_or_null(self, name: str) -> _Fields | None:
        return None if self._value[name] is None else _Fields(self._value[name])

    def whole(self) -> dict[str, object]:
        return self._value


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer")
    return value


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{name} must be a finite number")
    return float(value)


def _contract(fields: _Fields) -> TrainServeContract:
    template, precision = fields.fields("template"), fields.fields("precision")
    adapter = fields.fields_or_null("adapter")
    return TrainServeContract(
        version=fields.integer("version"),
        base_digest=fields.text("base_digest"),
        tokenizer_digest=fields.text("tokenizer_digest"),
        template=TemplateRecord(
            text=template.text("text"),
            sha256=template.text("sha256"),
            stop_token_ids=template.integers("stop_token_ids"),
            frozen_time_seconds=template.integer("frozen_time_seconds"),
        ),
        adapter=None if adapter is None else _adapter(adapter),
        precision=PrecisionRecord(dtype=precision.text("dtype"), quantization=precision.text("quantization")),
        tokens=tuple(_tokens(_Fields(item)) for item in fields.items("tokens")),
        numbers=tuple(_numbers(_Fields(item)) for item in fields.items("numbers")),
        unquantized=tuple(_numbers(_Fields(item)) for item in fields.items_or_none("unquantized")),
    )


def _adapter(fields: _Fields) -> AdapterRecord:
    return AdapterRecord(
        rank=fields.integer("rank"),
        alpha=fields.number("alpha"),
        effective_scale=fields.number("effective_scale"),
        target_modules=tuple(str(item) for item in fields.items("target_modules")),
        rslora=fields.flag("rslora"),
        dora=fields.flag("dora"),
        target_parameters=tuple(str(item) for item in fields.items_or_none("target_parameters")),
        virtual_tokens=fields.integer_or_none("virtual_tokens"),
    )


def _tokens(fields: _Fields) -> TokensRecord:
    messages = tuple(_Fields(item) for item in fields.items("messages"))
    for message in messages:
        message.text("role")
        message.text("content")
    return TokensRecord(
        messages=tuple(message.whole() for message in messages),
        prompt_token_ids=fields.integers("prompt_token_ids"),
        tools=tuple(_Fields(item).whole() for item in fields.items_or_none("tools")),
    )


def _numbers(fields: _Fields) -> NumbersRecord:
    return NumbersRecord(
        prompt_token_ids=fields.integers("prompt_token_ids"),
        base=_top(fields.fields("base")),
        tuned=_top(fields.fields("tuned")),
    )


def _top(fields: _Fields) -> TopLogprobs:
    top = TopLogprobs(token_ids=fields.integers("token_ids"), logprobs=fields.numbers("logprobs"))
    if not top.token_ids or len(top.token_ids) != len(top.logprobs):
        raise ValueError("token_ids and logprobs must have the same length, at least 1")
    return top
