"""Recipes are read, found and written into folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet_core.data import read_rows
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.recipes import find_recipe, own_recipes, read_recipe
from tunefleet_core.recipes.filling import use_recipe
from tunefleet_core.spec import parse_job_file

RECIPES = {recipe.name: recipe for recipe in own_recipes()}
ABOUT = """
title = "T"
summary = "S."
method = "sft"
base = "org/tiny"
rows = "100"
planned = {count = 100, tokens = 128}
jobs = ["job.yaml"]
"""
JOB = "name: x  # kept\ntrain:\n  base: {model: org/tiny}\n  data: {train: [{source: rows.jsonl}]}\n"


def write(folder: Path, *, about: str = ABOUT, job: str = JOB) -> Path:
    folder.mkdir()
    for name, text in {
        "recipe.toml": about,
        "page.md": "# T\n",
        "job.yaml": job,
        "rows.jsonl": "{}\n",
    }.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_written_whole_and_its_jobs_find_their_rows(name: str, tmp_path: Path) -> None:
    recipe, folder = RECIPES[name], tmp_path / "mine"
    written = use_recipe(recipe, folder)
    assert [path.name for path in written[: len(recipe.jobs)]] == list(recipe.jobs)
    assert sorted(written) == sorted(folder.iterdir())
    for job in recipe.jobs:
        spec = parse_job_file(folder / job)
        if job == recipe.jobs[0]:
            assert spec.train.base.model == recipe.base
        sources = [source.source for source in spec.train.data.train]
        for source in (*sources, spec.train.data.validation):
            assert Path(source).parent == folder
            assert Path(source).is_file()
        assert not set(sources) & {spec.train.data.validation}


def test_a_base_of_ones_own_takes_the_place_of_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write(tmp_path / "tiny"))
    use_recipe(recipe, tmp_path / "hub", base="org/other-2")
    assert (tmp_path / "hub" / "job.yaml").read_text() == JOB.replace("org/tiny", '"org/other-2"')
    (tmp_path / "my: model").mkdir()
    monkeypatch.chdir(tmp_path)
    use_recipe(recipe, tmp_path / "local", base="./my: model")
    assert parse_job_file(tmp_path / "local" / "job.yaml").train.base.model == str(tmp_path / "my: model")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    with pytest.raises(TunefleetError, match="nothing of it is overwritten") as caught:
        use_recipe(RECIPES["style"], tmp_path)
    assert caught.value.reason is Reason.FIELD_INVALID
    with pytest.raises(TunefleetError, match="nothing of it is overwritten"):
        use_recipe(RECIPES["style"], kept)
    assert (list(tmp_path.iterdir()), kept.read_text()) == ([kept], "mine")


def test_a_job_file_that_is_wrong_leaves_no_folder(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path / "wrong", job="name: x\ntrain: {base: {modl: a}}\n"))
    with pytest.raises(TunefleetError, match="modl"):
        use_recipe(recipe, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TunefleetError, match=r"there is no 'extracton'; did you mean 'extraction'\?"):
        find_recipe(RECIPES.values(), "extracton")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("title = ", "cannot be read"),
        (ABOUT.replace('title = "T"', "title = 3"), "does not say title"),
        (ABOUT.replace("tokens = 128", "tokens = 0"), "does not say planned"),
        (ABOUT.replace("job.yaml", "other.yaml"), "has no other.yaml"),
        (ABOUT.replace('["job.yaml"]', "[]"), "does not say jobs"),
    ],
)
def test_a_folder_that_is_no_recipe_says_why(about: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read_recipe(write(tmp_path / "tiny", about=about))
    with pytest.raises(ValueError, match="lower-case slug"):
        read_recipe(write(tmp_path / "Tiny"))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.method == "sft"])
def test_example_rows_are_rows(name: str) -> None:
    for path in RECIPES[name].files():
        if path.suffix == ".jsonl":
            assert len(list(read_rows(path))) >= 4
