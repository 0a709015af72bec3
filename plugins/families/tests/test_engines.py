"""What families say of serving engines, held against the engines' own registries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families import COHERE, DEEPSEEK_V3, QWEN3_MOE
from tunefleet_families.plugin import FAMILIES

THINKERS = (
    *("deepseek_v3/r1", "deepseek_v4", "gemma4", "gpt_oss"),
    *("qwen3", "qwen3_5", "qwen3_5/qwen3_6", "qwen3_moe"),
)
"""Chat forms whose thoughts an engine has to take apart from the answer."""


def _forms() -> Iterator[tuple[str, Family, str]]:
    for family in FAMILIES:
        yield family.name, family, ""
        for variant in family.variants:
            yield f"{family.name}/{variant.name}", family, variant.name


FORMS = [pytest.param(family, variant, id=name) for name, family, variant in _forms()]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(("family", "variant"), FORMS)
def test_an_engine_knows_the_parsers_that_a_family_names(family: Family, variant: str, engine: str) -> None:
    registry, parsers = engine_registries()[engine], family.parsers_of(engine, variant=variant)
    assert parsers.tool in ("", *registry.tool_parsers)
    assert parsers.reasoning in ("", *registry.reasoning_parsers)


def test_only_engines_that_were_read_are_spoken_of() -> None:
    said = {engine for family in FAMILIES for engine in family.parsers}
    said |= {engine for family in FAMILIES for form in family.variants for engine in form.parsers or {}}
    assert said == {"vllm", "sglang"}


def test_what_thinks_has_a_parser_of_thoughts_and_nothing_else_has_one() -> None:
    with_parser = {
        name for name, family, variant in _forms() if family.parsers_of("vllm", variant=variant).reasoning
    }
    thinking = {
        name
        for name, family, variant in _forms()
        if (
            next((form.thinking for form in family.variants if form.name == variant), None) or family.thinking
        )
        != "none"
    }
    assert with_parser == thinking
    assert with_parser == set(THINKERS)


def test_a_chat_form_has_the_familys_parsers_unless_it_names_its_own() -> None:
    assert QWEN3_MOE.parsers_of("vllm") == EngineParsers(tool="hermes", reasoning="qwen3")
    assert QWEN3_MOE.parsers_of("vllm", variant="coder") == EngineParsers(tool="qwen3_coder")
    assert DEEPSEEK_V3.parsers_of("sglang", variant="r1").reasoning == "deepseek-r1"
    assert COHERE.parsers_of("vllm") == EngineParsers()
    assert QWEN3_MOE.parsers_of("embedded") == EngineParsers()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_says_how_it_is_sharded_and_how_it_calls_tools(family: Family) -> None:
    assert family.layer_classes
    assert all(name.endswith("DecoderLayer") for name in family.layer_classes)
    assert family.tool_format
    assert not set(family.frozen_parts) & set(family.target_suffixes)
