"""What a model family plugin says about its models.

A family is data, read by the coordinator while it resolves a job. Workers never
ask a family: they read the resolved spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["EngineParsers", "Family", "TemplateVariant", "Thinking"]

Thinking = Literal["none", "optional", "always"]
"""Whether models of a family write a thought before an answer: never, if asked to, or each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParsers:
    """What a serving engine calls the parsers of a family's answers, as its own registry names them.

    Attributes:
        tool: Parser of tool calls; empty: the engine has none that fits.
        reasoning: Parser of thoughts; empty: none is needed, or the engine has none that fits.
    """

    tool: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateVariant:
    """Another chat form of a family: models of one `model_type` are published with several.

    Attributes:
        name: Slug, such as `coder`.
        contains: Strings of which each stands in the base's own template.
        lacks: Strings of which none stands there.
        chat_template: Jinja source with `{% generation %}` markers.
        origin: Where the template text comes from, with its licence.
        parsers: As those of the family; None: the same.
        thinking: As that of the family; None: the same.
        tool_format: As that of the family; empty: the same.
    """

    name: str
    contains: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    chat_template: str
    origin: str
    parsers: Mapping[str, EngineParsers] | None = None
    thinking: Thinking | None = None
    tool_format: str = ""

    def is_meant_by(self, own: str) -> bool:
        """Return whether a base's own template is of this form."""
        return all(text in own for text in self.contains) and not any(text in own for text in self.lacks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        name: Slug, such as `qwen3`.
        model_types: `model_type` values of config.json that belong to it.
        chat_template: Jinja source with `{% generation %}` markers around what
            the assistant says, end-of-turn token included.
        template_origin: Where the template text comes from, with its licence.
        stop_tokens: Tokens that end an answer, as text.
        target_suffixes: Last name part of every linear module that may get an
            adapter under `all-linear`; never head, router or vision tower.
        defaults: Dotted spec field to value, where the family differs from the
            common defaults, each with its reason.
        method_defaults: The same for one training method, by its name: wins over `defaults`.
        licence: Licence note for people.
        traps: Known traps, one sentence each.
        variants: Other chat forms, the first that fits a base's own template counts;
            what still differs is found by comparing the ids both render.
        expert_parameters: Ends of the names of 3-D parameters that hold routed experts.
            They are no modules: an adapter reaches them only by parameter name, and
            never under `all-linear`.
        layer_classes: Classes of its decoder layers, as transformers names them: what FSDP and
            ZeRO shard by.
        frozen_parts: Name parts of what gets no adapter under `all-linear`, nor anything below
            it: towers for pictures or sound and their projectors, layers for further tokens.
        parsers: Engine name to its parsers for this family; an engine that is not in it has none.
        thinking: Whether its models think before they answer.
        tool_format: How its models write a tool call, a short note.
        reads_ids: Why its models cannot do without the ids of tokens beside their embeddings, so that
            no learned embeddings can stand before a prompt; empty: they can.
        unsupported_types: `model_type` values that people know as this family and that cannot be
            trained: each with what does not support it and why, such as "transformers 5.23: it
            has no class for it". Such a base is refused by name.
    """

    name: str
    model_types: tuple[str, ...]
    chat_template: str
    template_origin: str
    stop_tokens: tuple[str, ...]
    target_suffixes: tuple[str, ...]
    defaults: Mapping[str, tuple[object, str]] = field(default_factory=dict[str, tuple[object, str]])
    method_defaults: Mapping[str, Mapping[str, tuple[object, str]]] = field(
        default_factory=dict[str, Mapping[str, tuple[object, str]]]
    )
    licence: str = ""
    traps: tuple[str, ...] = ()
    variants: tuple[TemplateVariant, ...] = ()
    expert_parameters: tuple[str, ...] = ()
    layer_classes: tuple[str, ...] = ()
    frozen_parts: tuple[str, ...] = ()
    parsers: Mapping[str, EngineParsers] = field(default_factory=dict[str, EngineParsers])
    thinking: Thinking = "none"
    tool_format: str = ""
    reads_ids: str = ""
    unsupported_types: Mapping[str, str] = field(default_factory=dict[str, str])

    def parsers_of(self, engine: str, *, variant: str = "") -> EngineParsers:
        """Return what an engine calls the parsers of a chat form; without names where it has none.

        Args:
            engine: Name of the engine, such as `vllm`.
            variant: Name of a variant; empty: the family's own form.

        Example:
            >>> Family(name="f", model_types=(), chat_template="", template_origin="", stop_tokens=(),
            ...        target_suffixes=(), parsers={"vllm": EngineParsers(tool="hermes")}).parsers_of("vllm")
            EngineParsers(tool='hermes', reasoning='')
        """
        own = next((form.parsers for form in self.variants if form.name == variant), None)
        return (self.parsers if own is None else own).get(engine, EngineParsers())
