"""Choose the chat template of a job and the tokens that end an answer.

One template text serves both training and serving. It needs `{% generation %}`
markers, which say what the assistant wrote and so what carries loss. Few bases ship
them; a family brings a marked copy, and the audit proves that it gives the same ids.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog.base import special_token_ids
from tunefleet_core.catalog.family import Family

__all__ = ["ChosenTemplate", "choose_template", "has_generation_markers"]

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTemplate:
    """A template and what is left to be proven about it.

    Attributes:
        template: The template with its stop ids.
        must_match: Another text that must render the same ids; empty: none.
        notice: What a person should know; empty: nothing.
    """

    template: ChatTemplate
    must_match: str = ""
    notice: str = ""


def has_generation_markers(text: str) -> bool:
    """Return whether a template marks what the assistant says."""
    return _GENERATION.search(text) is not None


def choose_template(facts: BaseFacts, family: Family, *, frozen_time_seconds: int = 0) -> ChosenTemplate:
    """Choose the template of a base.

    The base's own wins if it has markers; else the family's, which then must render
    the same ids as the base's own, if that has one.

    Args:
        facts: The base.
        family: Its family.
        frozen_time_seconds: What `strftime_now` answers with, seconds since the epoch;
            kept only if the template asks.
    """
    own = facts.chat_template
    if has_generation_markers(own):
        text, source, must_match, notice = own, "base", "", ""
    else:
        text, source = _of_family(family, own)
        must_match = own
        notice = "" if own else f"The base has no chat template; that of the family '{family.name}' is used."
    return ChosenTemplate(
        template=ChatTemplate(
            text=text,
            source=source,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            stop_token_ids=_stop_token_ids(facts, family),
            family=family.name,
            frozen_time_seconds=frozen_time_seconds if "strftime_now" in text else 0,
        ),
        must_match=must_match,
        notice=notice,
    )


def _of_family(family: Family, own: str) -> tuple[str, str]:
    """Return the family's template for a base with this template of its own, and its name."""
    for variant in family.variants:
        if own and variant.is_meant_by(own):
            return variant.chat_template, f"family:{family.name}/{variant.name}"
    return family.chat_template, f"family:{family.name}"


def _stop_token_ids(facts: BaseFacts, family: Family) -> list[int]:
    special = special_token_ids(facts)
    of_family = [special[token] for token in family.stop_tokens if token in special]
    return list(dict.fromkeys([*facts.eos_token_ids, *of_family]))
