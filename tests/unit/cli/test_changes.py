"""Commands that change something: what is sent, what is said, what is asked first."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
import sample_names
import samples
from cli_process import in_a_terminal, run

from tunefleet.artifact.v1.artifact_service_pb2 import (
    PruneArtifactsRequest,
    PruneArtifactsResponse,
    PrunedItem,
)
from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsRequest, CheckRowsResponse
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.job.v1 import job_service_pb2 as wire
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.artifacts import manifest_digest
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

RUNNING = "tickets-to-json-ab12"
DONE = "tickets-to-json-9c3e"
FAILED = "a-job-with-a-really-long-name-that-does-not-fit-anywhere-01ff"


@pytest.mark.parametrize(
    ("verb", "name", "request_type", "next_verb"),
    [
        ("pause", RUNNING, wire.PauseJobRequest, ("watch", "resume")),
        ("cancel", RUNNING, wire.CancelJobRequest, ("watch", "get")),
        ("retry", FAILED, wire.RetryJobRequest, ("watch",)),
    ],
)
async def test_a_job_is_steered_and_the_next_step_is_told(
    fleet: FakeCoordinator, verb: str, name: str, request_type: type, next_verb: tuple[str, ...]
) -> None:
    ended = await run("jobs", verb, name)
    assert (ended.code, ended.stdout) == (0, f"{name}\n")
    assert any(f"tunefleet jobs {word} {name}" in ended.stderr for word in next_verb)
    request = next(item for item in fleet.requests if isinstance(item, request_type))
    assert request.name == f"{sample_names.JOBS}/{name}"
    assert request.request_id


async def test_a_paused_job_is_resumed(fleet: FakeCoordinator) -> None:
    fleet.jobs[f"{sample_names.JOBS}/{RUNNING}"].state = JobState.JOB_STATE_PAUSED
    ended = await run("jobs", "resume", RUNNING, "--json")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["kind"] == "tunefleet.job.v1.Job"


async def test_labels_that_are_not_named_stay(fleet: FakeCoordinator) -> None:
    job = fleet.jobs[f"{sample_names.JOBS}/{RUNNING}"]
    job.labels.update({"team": "a", "old": "yes"})
    ended = await run(
        "jobs", "update", RUNNING, "--label", "site=office", "--label", "old=", "--priority", "5"
    )
    assert ended.code == 0, ended.stderr
    request = next(item for item in fleet.requests if isinstance(item, wire.UpdateJobRequest))
    assert dict(request.labels) == {"team": "a", "site": "office"}
    assert request.priority == 5


@pytest.mark.parametrize("arguments", [[], ["--label", "nonsense"], ["--label", "=x"]])
async def test_an_update_that_says_nothing_is_wrong_use(fleet: FakeCoordinator, arguments: list[str]) -> None:
    ended = await run("jobs", "update", RUNNING, *arguments)
    assert (ended.code, "(USAGE)" in ended.stderr) == (2, True)


@pytest.mark.parametrize(("noun", "name"), [("jobs", DONE), ("models", DONE), ("datasets", "nope")])
async def test_what_is_deleted_is_named_and_what_is_missing_is_told(
    fleet: FakeCoordinator, noun: str, name: str
) -> None:
    ended = await run(noun, "delete", name, "--json")
    if noun == "datasets":
        assert ended.code == 3
        ended = await run(noun, "delete", name, "--allow-missing", "--json")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["kind"].endswith("Response")
    assert (await run(noun, "get", name)).code == 3


@pytest.fixture
def prunable(fleet: FakeCoordinator) -> FakeCoordinator:
    items = [
        PrunedItem(kind="blob", name="aa" * 32, size_bytes=1 << 20, reason="no manifest names it"),
        PrunedItem(kind="checkpoint", name="j/step-20", size_bytes=1 << 30, reason="its job has ended"),
    ]
    fleet.prunable = PruneArtifactsResponse(items=items, freed_bytes=(1 << 30) + (1 << 20))
    return fleet


def pruned(fleet: FakeCoordinator) -> list[bool]:
    return [item.validate_only for item in fleet.requests if isinstance(item, PruneArtifactsRequest)]


async def test_prune_shows_first_and_asks(prunable: FakeCoordinator) -> None:
    shown, code = await asyncio.to_thread(in_a_terminal, "prune", keys=[("[y/N]", "n\r")], columns=100)
    assert (code, pruned(prunable)) == (1, [True])
    assert "Nothing was removed." in shown
    assert "1.0 GiB" in shown
    shown, code = await asyncio.to_thread(in_a_terminal, "prune", keys=[("[y/N]", "y\r")], columns=100)
    assert (code, pruned(prunable)) == (0, [True, True, False])
    assert "Removed 2 items, 1.0 GiB." in shown


async def test_prune_in_a_pipe_removes_nothing_unasked(prunable: FakeCoordinator) -> None:
    assert (await run("prune")).code == 2
    dry = await run("prune", "--dry-run", "--older-than", "12h")
    assert (dry.code, pruned(prunable)) == (0, [True])
    assert dry.stdout.splitlines()[1].startswith("checkpoint"), "the largest comes first"
    assert "Nothing was removed; 2 items, 1.0 GiB would go." in dry.stderr
    request = next(item for item in prunable.requests if isinstance(item, PruneArtifactsRequest))
    assert request.older_than.seconds == 43_200
    done = await run("prune", "--yes", "--json")
    assert json.loads(done.stdout)["data"]["freed_bytes"] == str((1 << 30) + (1 << 20))
    assert pruned(prunable) == [True, False]
    assert (await run("prune", "--older-than", "soon")).code == 2


async def test_the_secret_of_a_token_is_alone_on_stdout(fleet: FakeCoordinator) -> None:
    ended = await run("tokens", "create", "ci", "--role", "viewer", "--ttl", "30d")
    assert ended.code == 0, ended.stderr
    secret = ended.stdout.strip()
    assert secret
    assert len(ended.stdout.splitlines()) == 1
    assert secret not in (await run("tokens", "list", "--json")).stdout
    assert (await run("tokens", "revoke", "ci")).code == 0
    assert (await run("tokens", "revoke", "ci")).code == 3


async def test_a_service_is_drained_and_taken_back(fleet: FakeCoordinator) -> None:
    ended = await run("fleet", "drain", "laptop-trainer")
    assert (ended.code, "gets no new work" in ended.stderr) == (0, True)
    assert "DRAINING" in (await run("fleet", "list")).stdout
    assert (await run("fleet", "undrain", "laptop-trainer")).code == 0
    assert "DRAINING" not in (await run("fleet", "list")).stdout
    assert (await run("fleet", "remove", "laptop-trainer")).code == 1, "it is there"
    fleet.services[0].state = ServiceState.SERVICE_STATE_LOST
    assert (await run("fleet", "remove", "laptop-trainer")).code == 0


async def test_fleet_top_in_a_pipe_is_one_look(fleet: FakeCoordinator) -> None:
    ended = await run("fleet", "top")
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    trainer = next(index for index, line in enumerate(lines) if line.startswith("laptop-trainer"))
    assert lines[trainer + 1].startswith(f"  {RUNNING}"), "what a service works on stands below it"
    assert "24/60" in lines[trainer + 1]
    assert "\x1b" not in ended.stdout
    document = json.loads((await run("fleet", "top", "--json")).stdout)
    assert [job["name"] for job in document["data"]["jobs"]] == [f"{sample_names.JOBS}/{RUNNING}"]


async def test_fleet_top_at_a_terminal_ends_with_q_and_gives_the_screen_back(fleet: FakeCoordinator) -> None:
    shown, code = await asyncio.to_thread(
        in_a_terminal, "fleet", "top", "--interval", "0.3", keys=[("laptop-trainer", "q")]
    )
    assert code == 0
    assert shown.rfind("\x1b[?1049l") > shown.rfind("\x1b[?1049h") >= 0


async def test_rows_are_checked_with_marks_that_need_no_colour(
    fleet: FakeCoordinator, tmp_path: Path
) -> None:
    fleet.check = CheckRowsResponse(audit=samples.resolved_spec().mask_audit, template_source="base")
    ended = await run("data", "check", "rows.jsonl", "--model", "Qwen/Qwen3-0.6B", "--max-length", "192")
    assert ended.code == 0, ended.stderr
    assert '⟦{"team": "facilities", "urgency": 2}<|im_end|>⟧' in ended.stdout
    assert "4 rows (1.3 %) are over the limit" in ended.stdout
    assert "\x1b" not in ended.stdout
    request = next(item for item in fleet.requests if isinstance(item, CheckRowsRequest))
    assert Path(request.source).is_absolute()
    assert (request.model, request.max_length) == ("Qwen/Qwen3-0.6B", 192)
    fleet.check.audit.trained_tokens = 0
    assert (await run("datasets", "check", "datasets/tickets", "--model", DONE)).code == 1
    request = [item for item in fleet.requests if isinstance(item, CheckRowsRequest)][-1]
    assert request.source == "datasets/tickets"
    assert request.model == "/models/Qwen3-0.6B", "an adapter reads rows as its base does"


async def test_a_bare_word_that_is_no_file_is_a_dataset(fleet: FakeCoordinator) -> None:
    fleet.check = CheckRowsResponse(audit=samples.resolved_spec().mask_audit, template_source="base")
    assert (await run("datasets", "check", "tickets", "--model", "org/base")).code == 0
    request = [item for item in fleet.requests if isinstance(item, CheckRowsRequest)][-1]
    assert request.source == "datasets/tickets"


async def test_a_folder_that_is_written_as_a_models_name_is_told_how_to_be_named(
    fleet: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    ended = await run("data", "check", "rows.jsonl", "--model", "tiny")
    assert ended.code == 3
    assert "--model ./tiny" in ended.stderr
    assert "./other" not in (await run("data", "check", "rows.jsonl", "--model", "other")).stderr


async def test_a_wrong_row_is_named_by_file_line_and_field(fleet: FakeCoordinator) -> None:
    fleet.error = TunefleetError(
        Reason.DATA_INVALID,
        "rows.jsonl:17: messages[1].role: must be one of system, user, assistant, tool.",
        hint="Correct line 17 of rows.jsonl.",
        violations=(FieldViolation(field="messages[1].role", description="must be one of system, user"),),
    )
    ended = await run("data", "check", "rows.jsonl", "--model", "Qwen/Qwen3-0.6B")
    assert ended.code == 1
    assert "rows.jsonl:17: messages[1].role" in ended.stderr


async def test_a_model_is_fetched_whole(fleet: FakeCoordinator, tmp_path: Path) -> None:
    model = next(iter(fleet.models.values()))
    for file in model.manifest.files:
        content = file.path.encode()
        file.size_bytes, file.sha256 = len(content), hashlib.sha256(content).hexdigest()
        fleet.blobs[file.sha256] = content
    model.manifest.digest = manifest_digest(model.manifest)
    fleet.manifests[model.manifest.digest] = model.manifest
    ended = await run("models", "fetch", DONE, str(tmp_path / "here"))
    assert ended.code == 0, ended.stderr
    assert ended.stdout == f"{tmp_path / 'here'}\n"
    assert (tmp_path / "here" / "adapter_config.json").read_text() == "adapter_config.json"
    assert (await run("artifacts", "get", model.manifest.digest)).code == 0


async def test_quiet_leaves_the_data_and_the_errors(fleet: FakeCoordinator) -> None:
    ended = await run("jobs", "cancel", RUNNING, "-q")
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"{RUNNING}\n", "")
    assert "JOB_NOT_FOUND" in (await run("jobs", "get", "nope", "-q")).stderr
