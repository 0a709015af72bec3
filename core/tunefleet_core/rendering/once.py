"""What a process rendered once it need not render again.

A warm process audits the files of a job and then, most often, is the process that runs it. The run
needs the same tokenizer, and the same rows of the same bytes: a quarter of the load of a small job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.rendering.answered import AnsweredRow, answered_rows
from tunefleet_core.rendering.renderer import Renderer
from tunefleet_core.rendering.tokenizer import load_tokenizer

__all__ = ["renderer_of", "rows_of_file"]

_MOST_BYTES = 2 << 20
"""Larger files are rendered as they are read: where rendering takes seconds, memory counts more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    model: str
    path: str
    tokenizer_digest: str
    template: bytes
    loss_on: str


def renderer_of(base: BaseFacts, template: ChatTemplate, *, loss_on: str) -> Renderer:
    """Return the renderer of a base and a resolved template; the last one again if nothing differs.

    Args:
        base: The base, whose tokenizer is read unless one of the same digest is here.
        template: The resolved chat template.
        loss_on: As for `Renderer`.

    Raises:
        TunefleetError: BASE_INVALID, see `load_tokenizer`.
    """
    key = _Key(
        model=base.model,
        path=base.path,
        tokenizer_digest=base.tokenizer_digest,
        template=template.SerializeToString(deterministic=True),
        loss_on=loss_on,
    )
    return _renderer(key)


@lru_cache(maxsize=1)
def _renderer(key: _Key) -> Renderer:
    tokenizer = load_tokenizer(BaseFacts(model=key.model, path=key.path))
    return Renderer(tokenizer, ChatTemplate.FromString(key.template), loss_on=key.loss_on)


def rows_of_file(method: str, path: str, renderer: Renderer, *, sha256: str) -> Iterable[AnsweredRow]:
    """Return the rows of a file as a method takes them; see `answered_rows`.

    Args:
        method: As for `answered_rows`.
        path: The file.
        renderer: Tokenizer and template.
        sha256: Digest of the file, made before this call; rows are known again by it. Empty: unknown.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    if not sha256 or Path(path).stat().st_size > _MOST_BYTES:
        return answered_rows(method, path, renderer)
    return _rows(method, path, sha256, renderer)


@lru_cache(maxsize=4)
def _rows(method: str, path: str, sha256: str, renderer: Renderer) -> tuple[AnsweredRow, ...]:
    return tuple(answered_rows(method, path, renderer))
