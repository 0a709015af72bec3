"""Every recipe in miniature: its job files and rows, planned and trained on a tiny model of its family.

What a recipe says of size is left out: the base is two layers wide, the run a few steps. All else is
what a person gets: the files are written by `use_recipe`, resolved by the resolver, run by the rank.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import process_lab
import pytest
import trl_lab as lab
from safetensors import safe_open

from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.resolved_pb2 import CompanionModel, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.registry import FamilyRegistry
from tunefleet_core.data import file_digest
from tunefleet_core.recipes import JobRecipe, own_recipes
from tunefleet_core.recipes.filling import use_recipe
from tunefleet_core.resolve import ChosenBackend, Resolution, companions_of, draft_train, finish_train
from tunefleet_core.spec import parse_job_file
from tunefleet_families.plugin import FAMILIES
from tunefleet_formats.plugin import tunefleet_formats
from tunefleet_trl.plugin import tunefleet_backends
from tunefleet_trl.rank import TrlRank

RECIPES = {
    recipe.name: recipe
    for recipe in own_recipes()
    if {parse_job_file(recipe.folder / job).backend for job in recipe.jobs} <= {"", "trl"}
}
"""Those that name another backend run in the tests of that one."""
FORMATS = FormatRegistry(tunefleet_formats())
STEPS = 3
SLOW = ("maths-grpo", "sft-dpo")
"""One that writes its own answers; one that trains, merges and trains again."""
TYPES = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama",
    "meta-llama/Llama-3.3-70B-Instruct": "llama",
    "Qwen/Qwen2.5-Coder-7B-Instruct": "qwen2",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3",
    "Qwen/Qwen3-8B": "qwen3",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3_moe",
    "Qwen/Qwen3.6-27B": "qwen3_5_text",
    "openai/gpt-oss-20b": "gpt_oss",
}
_DELTA: dict[str, Any] = {
    "num_hidden_layers": 4,  # three gated-delta layers, then one of attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SIZES: dict[str, dict[str, Any]] = {"qwen3_5_text": _DELTA}


@pytest.fixture(scope="session")
def bases(warm: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases by model type, made when they are asked for."""
    return _Bases(tmp_path_factory)


class _Bases(dict[str, Path]):
    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._folders = folders

    def __missing__(self, model_type: str) -> Path:
        folder = self._folders.mktemp(model_type)
        lab.build_base(
            folder, model_type=model_type, max_position_embeddings=4096, **_SIZES.get(model_type, {})
        )
        family = FamilyRegistry(FAMILIES).for_model_type(model_type)
        # An instruct model brings a template; without one every plan would warn of that.
        (folder / "chat_template.jinja").write_text(family.chat_template)
        self[model_type] = folder
        return folder


def plan(spec: JobSpec, rank: TrlRank) -> Resolution:
    """Resolve a job as the coordinator would on a CPU."""
    facts = read_base(spec.train.base.model, formats=FORMATS)
    draft = draft_train(
        spec,
        facts,
        FamilyRegistry(FAMILIES).for_model_type(facts.model_type),
        frozen_time_seconds=1_700_000_000,
        # The base teaches itself here: what it would teach is no question of a recipe.
        companions=[CompanionModel(field=item.field, base=facts) for item in companions_of(spec.train)],
    )
    (manifest,) = tunefleet_backends()
    return finish_train(draft, rank.audit(draft.audit_order), ChosenBackend(manifest=manifest), FORMATS)


def run(resolved: ResolvedSpec, folder: Path) -> lab.MemoryContext:
    """Train a resolved job for a few steps."""
    for item in resolved.data:
        assert item.sha256 == file_digest(Path(item.path))
    train = resolved.spec.train
    train.optim.max_steps = STEPS
    if train.method.HasField("grpo"):
        train.method.grpo.max_completion_length = 16
    if train.method.HasField("distill"):
        train.method.distill.max_completion_length = 16
    dirs = [""] * len(resolved.companions)
    order = lab.order(resolved, folder, companion_adapter_dirs=dirs)
    context = lab.MemoryContext(order)
    if resolved.spec.resources.devices > 1:  # as many processes as a small host has cores for
        hosted = process_lab.run_hosted(order, "tunefleet_trl.rank:TrlRank", processes=2)
        assert hosted.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, hosted.ended.error
        context.told = [event.metrics for event in hosted.events if event.HasField("metrics")]
    else:
        TrlRank().run(context)
    return context


def explained(recipe: JobRecipe) -> str:
    return recipe.page().partition("## What plan says\n")[2]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_planned_without_a_warning_that_its_page_does_not_explain(
    name: str, bases: dict[str, Path], tmp_path: Path, rank: TrlRank
) -> None:
    recipe = RECIPES[name]
    use_recipe(recipe, tmp_path / "mine", base=str(bases[TYPES[recipe.base]]))
    for job in recipe.jobs:
        spec = parse_job_file(tmp_path / "mine" / job)
        spec.train.base.model = str(bases[TYPES[recipe.base]])  # also of a job that starts from another's
        resolution = plan(spec, rank)
        warnings = [notice for notice in resolution.notices if notice.severity == "warning"]
        assert not [item.text for item in warnings if f"`{item.field}`" not in explained(recipe)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECIPES]
)
def test_a_recipe_trains(name: str, bases: dict[str, Path], tmp_path: Path, rank: TrlRank) -> None:
    recipe, folder = RECIPES[name], tmp_path / "mine"
    base = bases[TYPES[recipe.base]]
    use_recipe(recipe, folder, base=str(base))
    for job in recipe.jobs:
        spec = parse_job_file(folder / job)
        spec.train.base.model = str(base)
        resolved = plan(spec, rank).spec
        context = run(resolved, tmp_path / job)
        losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
        assert len(losses) == STEPS
        assert all(map(math.isfinite, losses))
        if spec.train.merge:
            base = context.output  # what the next job starts from
            assert read_base(base).parameter_count == resolved.base.parameter_count
        else:
            with safe_open(context.output / "adapter_model.safetensors", framework="pt") as weights:
                first = [weights.get_tensor(key) for key in weights.keys() if ".lora_A." in key]  # noqa: SIM118
            assert len(first) == len(resolved.target_modules)
            assert {len(weight) for weight in first} == {spec.train.adapter.lora.rank}
