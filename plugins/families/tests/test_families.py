"""What every family must say, checked without a tokenizer."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import reference_table  # found through conftest.py

import tunefleet_families
from tunefleet_core.catalog.family import Family
from tunefleet_families import LLAMA3, QWEN3
from tunefleet_families.plugin import tunefleet_families as hook
from tunefleet_families.template_files import read_template

FAMILIES = tuple(hook())


def _texts(family: Family) -> list[str]:
    return [family.chat_template, *(variant.chat_template for variant in family.variants)]


def test_the_hook_returns_every_module_of_the_distribution() -> None:
    folder = Path(tunefleet_families.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "plugin", "template_files"}
    assert {family.name for family in FAMILIES} == modules


def test_every_template_file_belongs_to_a_family() -> None:
    used = {text for family in FAMILIES for text in _texts(family)}
    folder = Path(tunefleet_families.__file__).parent / "templates"
    assert {read_template(path.stem) for path in folder.glob("*.jinja")} == used


def test_the_entry_point_leads_to_the_hook() -> None:
    (point,) = [
        point
        for point in entry_points(group="tunefleet")
        if point.dist and point.dist.name == "tunefleet-families"
    ]
    assert point.load().tunefleet_families is hook


def test_no_model_type_belongs_to_two_families() -> None:
    model_types = [
        model_type for family in FAMILIES for model_type in (*family.model_types, *family.unsupported_types)
    ]
    assert len(model_types) == len(set(model_types))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_states_origin_stop_tokens_and_targets(family: Family) -> None:
    assert family.template_origin
    assert family.licence
    assert family.traps
    assert not {"lm_head", "embed_tokens", "gate", "router"} & set(family.target_suffixes)
    assert {"o_proj", "o_b_proj"} & set(family.target_suffixes)
    assert all(variant.contains and variant.origin for variant in family.variants)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_end_of_turn_token_stands_inside_the_markers(family: Family) -> None:
    for text in _texts(family):
        spans = re.findall(r"{%-?\s*generation\s*-?%}(.*?){%-?\s*endgeneration\s*-?%}", text, re.S)
        ends = (*family.stop_tokens, "eos_token", "<turn|>", "after[:-1]")
        assert any(end in span for span in spans for end in ends)


def test_templates_are_read_byte_for_byte() -> None:
    assert QWEN3.chat_template == read_template("qwen3")
    assert LLAMA3.chat_template == read_template("llama3")
    assert "\r" not in QWEN3.chat_template + LLAMA3.chat_template


def test_the_reference_page_says_what_the_families_say() -> None:
    written = reference_table.PAGE.read_text()
    assert written == reference_table.page(), "run python plugins/families/tests/reference_table.py"
    assert "not proven" not in written.partition("| family |")[2]
