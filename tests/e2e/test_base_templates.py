"""Whose chat template a job is trained with: the base's own, the family's if it says the same, or none.

Each case is a base as somebody has it, planned by a running fleet, which renders the reference
conversations with both texts before it says yes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from local_fleet import BASE, ROOT, LocalFleet, tickets_job
from test_refusals import copy_of_base

from tunefleet.job.v1.job_service_pb2 import PlanJobResponse
from tunefleet_core.catalog import has_generation_markers
from tunefleet_core.errors import Reason, TunefleetError

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # a fleet of its own, which trains several times
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

PUBLISHED = ROOT / "plugins" / "families" / "tests" / "published"
_MARKER = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def _base_with(folder: Path, template: str) -> Path:
    base = copy_of_base(folder / "base")
    (base / "chat_template.jinja").write_text(template)
    return base


def _own_text() -> str:
    return (BASE / "chat_template.jinja").read_text()


def _without_markers(text: str) -> str:
    plain = _MARKER.sub("", text)
    assert plain != text
    assert not has_generation_markers(plain)
    return plain


async def _plan(fleet: LocalFleet, base: Path) -> PlanJobResponse:
    async with fleet.client() as client:
        return await client.jobs.plan(tickets_job(f"train.base.model={base}", max_steps=2))


async def _refusal(fleet: LocalFleet, base: Path) -> TunefleetError:
    """Return how a job on this base is refused at submit; nothing of it is kept."""
    async with fleet.client() as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.create(tickets_job(f"train.base.model={base}", max_steps=2))
        assert not await client.jobs.list()
    return caught.value


async def test_a_base_that_brings_marked_text_is_trained_with_its_own(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    mine = _own_text().replace("<|im_start|>", "<|im_start|>~")  # a form that no family has
    assert mine != _own_text()
    plan = await _plan(fleet, _base_with(tmp_path, mine))
    assert plan.resolved_spec.chat_template.source == "base"
    assert plan.resolved_spec.chat_template.text == mine


@pytest.mark.parametrize("whose", ["ours without markers", "as published"])
async def test_the_familys_text_is_used_for_a_base_whose_own_says_the_same(
    fleet: LocalFleet, tmp_path: Path, whose: str
) -> None:
    from tunefleet_families import QWEN3

    published = (PUBLISHED / "qwen3.jinja").read_text()
    own = _without_markers(QWEN3.chat_template) if whose == "ours without markers" else published
    assert not has_generation_markers(own)
    chosen = (await _plan(fleet, _base_with(tmp_path, own))).resolved_spec.chat_template
    assert (chosen.source, chosen.text) == ("family:qwen3", QWEN3.chat_template)


async def test_a_base_that_says_another_thing_is_refused_with_the_first_difference(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    published = (PUBLISHED / "qwen3.jinja").read_text()
    other = published.replace("<|im_start|>assistant", "<|im_start|>helper")
    assert other != published
    error = await _refusal(fleet, _base_with(tmp_path, other))
    assert error.reason is Reason.TEMPLATE_MISMATCH
    assert re.search(
        r"differ in the prompt of turn 1 of reference conversation 0 at token \d+", error.message
    )
    assert "'helper" in error.message
    assert "'assistant" in error.message
    assert "chat_template.jinja" in error.hint


@pytest.mark.parametrize("family", ["qwen2_5", "mistral_v3", "phi4"])
async def test_a_base_with_the_text_of_another_family_is_refused(
    fleet: LocalFleet, tmp_path: Path, family: str
) -> None:
    text = (PUBLISHED / f"{family}.jinja").read_text()
    error = await _refusal(fleet, _base_with(tmp_path, text))
    assert error.reason is Reason.TEMPLATE_MISMATCH
    assert "reference conversation 0" in error.message


async def test_a_base_without_a_text_is_trained_with_the_familys_and_told_so(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    base = _base_with(tmp_path, "")
    (base / "chat_template.jinja").unlink()
    plan = await _plan(fleet, base)
    assert plan.resolved_spec.chat_template.source == "family:qwen3"
    assert any("has no chat template" in notice.text for notice in plan.notices)


async def test_a_type_that_the_library_cannot_load_is_refused_by_that_name(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    base = copy_of_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "mistral3"}))
    error = await _refusal(fleet, base)
    assert error.reason is Reason.BASE_INVALID
    assert "'mistral3' (family 'mistral') are unsupported by transformers 5.23" in error.message
    assert "mistral" in error.hint
