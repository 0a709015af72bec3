"""Recipes for this backend in miniature: their job files and rows, resolved and trained on a tiny base."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import train_lab as lab

sys.path.append(str(Path(__file__).resolve().parents[2] / "formats"))

from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.registry import FamilyRegistry
from tunefleet_core.recipes import own_recipes
from tunefleet_core.recipes.filling import use_recipe
from tunefleet_core.resolve import ChosenBackend, draft_train, finish_train
from tunefleet_core.spec import parse_job_file
from tunefleet_families.plugin import FAMILIES
from tunefleet_formats.plugin import tunefleet_formats
from tunefleet_mlx.plugin import tunefleet_backends
from tunefleet_mlx.rank import MlxRank

RECIPES = {
    recipe.name: recipe
    for recipe in own_recipes()
    if {parse_job_file(recipe.folder / job).backend for job in recipe.jobs} == {"mlx"}
}
STEPS = 3


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains(name: str, bases: Path, tmp_path: Path) -> None:
    recipe, folder, base = RECIPES[name], tmp_path / "mine", tmp_path / "qwen3"
    shutil.copytree(bases / "qwen3", base)
    family = FamilyRegistry(FAMILIES).for_model_type("qwen3")
    (base / "chat_template.jinja").write_text(family.chat_template)  # instruct models bring one
    use_recipe(recipe, folder, base=str(base))
    formats = FormatRegistry(tunefleet_formats())
    for job in recipe.jobs:
        spec = parse_job_file(folder / job)
        facts = read_base(spec.train.base.model, formats=formats)
        draft = draft_train(spec, facts, family, frozen_time_seconds=1_700_000_000)
        (manifest,) = tunefleet_backends()
        audit = MlxRank().audit(draft.audit_order)
        resolved = finish_train(draft, audit, ChosenBackend(manifest=manifest), formats)
        explained = recipe.page().partition("## What plan says\n")[2]
        warned = [item for item in resolved.notices if item.severity == "warning"]
        assert not [item.text for item in warned if f"`{item.field}`" not in explained]
        resolved.spec.spec.train.optim.max_steps = STEPS
        context = lab.run(lab.order(resolved.spec, tmp_path / job))
        assert len(losses := lab.losses(context)) == STEPS
        assert all(map(math.isfinite, losses))
        config = json.loads((context.output / "adapter_config.json").read_text())
        assert config["r"] == spec.train.adapter.lora.rank == 16
