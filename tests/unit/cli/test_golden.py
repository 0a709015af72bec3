"""What people and programs see, byte for byte, at three widths."""

from __future__ import annotations

import json
from collections.abc import Callable

import catalog_samples
import deployment_samples as served
import pytest
import sample_names
import samples

from tunefleet.job.v1.event_pb2 import Sample
from tunefleet.job.v1.state_pb2 import CheckpointRef
from tunefleet_cli.findings import Finding
from tunefleet_cli.output import Mode, Output, lists, sheets
from tunefleet_cli.output.audit import show_check
from tunefleet_cli.output.diagnosis import show_diagnosis
from tunefleet_cli.output.findings import show_findings
from tunefleet_cli.output.jobs import show_job
from tunefleet_cli.output.matrix import show_matrix
from tunefleet_cli.output.plan import show_plan
from tunefleet_cli.output.prune import show_prunable
from tunefleet_cli.output.recipes import show_recipe, show_recipes
from tunefleet_cli.output.rollouts import show_rollout
from tunefleet_cli.output.top import show_look, top_screen
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

FINDINGS = [
    Finding(check="state folder", status="OK", text="/home/ada/.local/state/tunefleet"),
    Finding(
        check="coordinator",
        status="FAILED",
        text="The coordinator at 127.0.0.1:7000 does not answer.",
        fix="tunefleet up",
    ),
    Finding(check="services", status="SKIPPED", text="needs a coordinator"),
    Finding(check="disk", status="WARNING", text="3.0 GiB free at /home", fix="Free space."),
]
NOT_INSTALLED = TunefleetError(
    Reason.BACKEND_NOT_INSTALLED,
    "Backend 'trl' is not installed on any service of the fleet.",
    hint="tunefleet plugins install trl",
    metadata={"backend": "trl"},
)
TWO_FIELDS = TunefleetError(
    Reason.FIELD_INVALID,
    "The job has 2 fields that cannot be used.",
    hint="Correct them and send it again.",
    violations=[
        FieldViolation(field="train.optim.epochs", description="must be greater than 0, got -1"),
        FieldViolation(field="train.max_length", description="must be at least 8, got 1"),
    ],
)
VIEWS: dict[str, Callable[[Output], None]] = {
    "jobs_list": lambda output: lists.JOBS.show(output, samples.jobs()),
    "jobs_get": lambda output: show_job(
        output, samples.jobs()[1], [CheckpointRef(step=60), CheckpointRef(step=40)]
    ),
    "jobs_get_samples": lambda output: show_job(
        output,
        samples.jobs()[1],
        [],
        [
            Sample(step=60, prompt="The printer on floor 3 is jammed again.", answer='{"team": "facil'),
            Sample(
                step=60, prompt="Where is my\x1b[2J invoice?", answer='{"team": "billing", "urgent": false}'
            ),
        ],
    ),
    "jobs_diagnose": lambda output: show_diagnosis(output, samples.diagnosis()),
    "jobs_diagnose_healthy": lambda output: show_diagnosis(output, samples.diagnosis("healthy")),
    "jobs_get_scores": lambda output: show_job(output, samples.jobs()[2], []),
    "plan": lambda output: show_plan(output, samples.plan()),
    "plan_uninspected": lambda output: show_plan(output, samples.uninspected_plan()),
    "models_list": lambda output: lists.MODELS.show(output, samples.models()),
    "models_get": lambda output: sheets.show_model(output, samples.models()[0]),
    "deployments_list": lambda output: lists.DEPLOYMENTS.show(output, served.deployments()),
    "deployments_get_preparing": lambda output: sheets.show_deployment(output, served.preparing()),
    "deployments_get": lambda output: sheets.show_deployment(output, served.deployments()[0]),
    "deployments_rollout": lambda output: show_rollout(output, "tickets", served.rollout()),
    "fleet_list": lambda output: lists.SERVICES.show(output, samples.services()),
    "plugins_list": lambda output: lists.PLUGINS.show(output, catalog_samples.plugins()),
    "jobs_checkpoints": lambda output: lists.CHECKPOINTS.show(
        output, [CheckpointRef(step=1_200, attempt=2, manifest_digest="d1" * 32)]
    ),
    "datasets_list": lambda output: lists.DATASETS.show(output, samples.datasets()),
    "datasets_get": lambda output: sheets.show_dataset(output, samples.datasets()[0]),
    "tokens_list": lambda output: lists.TOKENS.show(output, samples.tokens()),
    "fleet_tokens_list": lambda output: lists.JOIN_TOKENS.show(output, samples.join_tokens()),
    "catalog_backends": lambda output: lists.BACKENDS.show(output, catalog_samples.backends()),
    "catalog_families": lambda output: lists.FAMILIES.show(output, catalog_samples.families()),
    "catalog_formats": lambda output: lists.FORMATS.show(output, catalog_samples.formats()),
    "catalog_matrix": lambda output: show_matrix(output, catalog_samples.combinations()),
    "fleet_get": lambda output: sheets.show_service(output, samples.services()[0]),
    "fleet_info": lambda output: sheets.show_fleet(output, samples.fleet()),
    "fleet_top": lambda output: show_look(output, samples.look()),
    "artifacts_get": lambda output: sheets.show_manifest(output, samples.models()[0].manifest),
    "prune": lambda output: show_prunable(output, samples.prunable()),
    "data_check": lambda output: show_check(
        output, samples.check(), source="/data/train.jsonl", model="/models/Qwen3-0.6B", rows=3
    ),
    "recipes_list": lambda output: show_recipes(output, catalog_samples.recipes()),
    "recipes_show": lambda output: show_recipe(output, catalog_samples.recipes()[0]),
    "doctor": lambda output: show_findings(output, FINDINGS),
    "error": lambda output: output.error(NOT_INSTALLED),
    "error_fields": lambda output: output.error(TWO_FIELDS),
    "done": lambda output: output.done("Job a is accepted.", next_step="tunefleet jobs watch a"),
}


def test_every_list_is_among_them() -> None:
    named = {name for view in VIEWS.values() for name in view.__code__.co_names}
    known = {name for name in lists.__all__ if isinstance(getattr(lists, name), lists.Listing)}
    assert len(known) > 10
    assert known <= named


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("view", VIEWS)
def test_a_terminal_shows_it_so(view: str, width: int, printed, golden) -> None:
    files = printed(Mode.HUMAN, width)
    VIEWS[view](files.output)
    text = files.stdout.text() + files.stderr.text()
    golden(f"{view}.{width}.txt", text)
    assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_screen_of_fleet_top_fits(width: int, printed, golden) -> None:
    files = printed(Mode.HUMAN, width)
    files.output.show(top_screen(files.output, samples.look(), note="q leaves", now=sample_names.NOW))
    text = files.stdout.text()
    golden(f"top_screen.{width}.txt", text)
    assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("view", VIEWS)
def test_a_pipe_gets_it_so(view: str, printed, golden) -> None:
    files = printed(Mode.PLAIN, 80)
    VIEWS[view](files.output)
    assert "\x1b" not in files.stdout.getvalue()
    golden(f"{view}.plain.txt", files.stdout.text())


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "done"])
def test_a_program_gets_one_versioned_document(view: str, printed, golden) -> None:
    files = printed(Mode.JSON, 80)
    VIEWS[view](files.output)
    text = files.stderr.getvalue() if view.startswith("error") else files.stdout.getvalue()
    document = json.loads(text)
    assert list(document) == ["schema", "kind", "data"]
    assert document["schema"] == "tunefleet/v1"
    assert text.count("\n") == 1
    golden(f"{view}.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("view", VIEWS)
def test_no_color_takes_the_colour_and_leaves_the_symbols(
    view: str, printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = printed()
    VIEWS[view](coloured.output)
    monkeypatch.setenv("NO_COLOR", "1")
    files = printed()
    VIEWS[view](files.output)
    assert "\x1b[3" not in files.stdout.getvalue() + files.stderr.getvalue()
    assert files.stdout.text() == coloured.stdout.text()


@pytest.mark.parametrize(
    ("view", "what"),
    [
        (lambda output: lists.JOBS.show(output, []), "tunefleet train FILE"),
        (lambda output: lists.MODELS.show(output, []), "tunefleet train FILE"),
        (lambda output: lists.DEPLOYMENTS.show(output, []), "tunefleet deploy MODEL"),
        (lambda output: lists.SERVICES.show(output, []), "tunefleet up"),
        (lambda output: lists.PLUGINS.show(output, []), "tunefleet plugins install NAME"),
        (lambda output: lists.JOIN_TOKENS.show(output, []), "tunefleet fleet tokens create"),
    ],
)
def test_an_empty_list_says_what_to_do(view, what: str, printed) -> None:
    files = printed()
    view(files.output)
    assert files.stdout.getvalue() == ""
    assert what in files.stderr.text()


def test_text_of_models_is_never_taken_for_markup(printed) -> None:
    files = printed()
    files.output.error(TunefleetError(Reason.INTERNAL, "[bold]no[/bold] :smile: [link=x]y[/link]"))
    assert "[bold]no[/bold] :smile: [link=x]y[/link]" in files.stderr.text()


def test_what_a_model_says_cannot_command_a_terminal(printed) -> None:
    files = printed()
    files.output.fragment("a\x1b[2Jb\x07\tc\n")
    assert files.stdout.getvalue() == "a�[2Jb�\tc\n"
    piped = printed(Mode.PLAIN)
    piped.output.fragment("a\x1b[2J")
    assert piped.stdout.getvalue() == "a\x1b[2J", "a pipe gets the bytes as they are"
