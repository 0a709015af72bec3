"""What the recipe lint looks at, and the shape of its rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from tunefleet.dataset.v1.audit_pb2 import MaskAudit
from tunefleet.job.v1.spec_pb2 import JobSpec, TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts

__all__ = ["Finding", "Recipe", "Rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is held against the table.

    Attributes:
        train: A training spec with every default filled in.
        method: Training method, such as `sft`.
        rows: Training rows; 0 if unknown.
        typical_length: 95th percentile of their lengths in tokens; 0 if unknown.
        longest: The longest of them in tokens; 0 if unknown.
        has_turns: Whether rows are conversations, not all plain texts.
        is_bare: Whether the base is known to have no chat template.
        config: config.json of the base's language model; empty if unknown.
    """

    train: TrainSpec
    method: str = "sft"
    rows: int = 0
    typical_length: int = 0
    longest: int = 0
    has_turns: bool = True
    is_bare: bool = False
    config: Mapping[str, object]

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained rather than every weight."""
        return self.train.adapter.WhichOneof("adapter") is not None

    @classmethod
    def of(cls, spec: JobSpec, *, facts: BaseFacts | None = None, mask: MaskAudit | None = None) -> Recipe:
        """Return what is known of a resolved training job."""
        lengths = list(mask.length_percentiles) if mask is not None else []
        _, typical, longest = lengths if len(lengths) == 3 else (0, 0, 0)
        return cls(
            train=spec.train,
            method=spec.train.method.WhichOneof("method") or "sft",
            rows=mask.rows if mask is not None else 0,
            typical_length=typical,
            longest=longest,
            has_turns=mask is None or mask.rows_of_text < mask.rows or not mask.rows,
            is_bare=facts is not None and not facts.chat_template,
            config=config_of(facts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A value that is not usual.

    Attributes:
        text: What it is and what follows, one sentence.
        hint: What to do.
        value: The value, as YAML would show it.
        usual: What it usually is, where the rule's own words do not fit.
        source: Where that is from, where the rule has several.
        field: The field, where it is another than the rule's own.
        is_trouble: Whether it may spoil the result; else it is only shown.
    """

    text: str
    hint: str
    value: object
    usual: str = ""
    source: str = ""
    field: str = ""
    is_trouble: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A line of the table.

    Attributes:
        name: Slug, for the page that lists the rules.
        field: The field it holds against what is usual.
        usual: What its value usually is.
        source: Where that is from.
        find: What is unusual about a recipe; None: nothing.
    """

    name: str
    field: str
    usual: str
    source: str
    find: Callable[[Recipe], Finding | None]


def config_of(facts: BaseFacts | None) -> Mapping[str, object]:
    """Return the config of a base with that of its language model, which some keep one level down, on top."""
    try:
        read: object = json.loads(facts.config_json) if facts is not None else {}
    except ValueError:
        return {}
    if not isinstance(read, dict):
        return {}
    config = cast("dict[str, object]", read)
    inner = config.get("text_config")
    return {**config, **cast("dict[str, object]", inner)} if isinstance(inner, dict) else config
