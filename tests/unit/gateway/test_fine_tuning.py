"""What a request of OpenAI's fine-tuning API becomes, and what a job looks like to its clients."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import Reward
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError, status_from_error
from tunefleet_core.spec import find_violations
from tunefleet_services.gateway.fine_tuning.graders import grader_of, rewards_of
from tunefleet_services.gateway.fine_tuning.job_object import job_document
from tunefleet_services.gateway.fine_tuning.job_spec import job_spec, learning_rate_multiplier
from tunefleet_services.gateway.fine_tuning.names import fine_tuned_name, parse_fine_tuned_name

ASKED: dict[str, Any] = {"model": "Qwen/Qwen3-0.6B", "training_file": "file-1"}
GRADER = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{ item.solution }}",
}


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return ASKED | {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


def test_the_least_that_is_asked_is_a_valid_job_with_an_adapter() -> None:
    spec = job_spec(ASKED)
    assert not find_violations(spec)
    assert (spec.name, spec.train.data.train[0].source) == ("qwen3-0-6b", "datasets/file-1")
    assert spec.train.method.WhichOneof("method") == "sft"
    assert spec.train.adapter.WhichOneof("adapter") == "lora"
    assert not spec.train.optim.HasField("epochs"), "auto is left to our own defaults"


def test_hyperparameters_are_taken_where_they_are_numbers() -> None:
    spec = job_spec(supervised(n_epochs=2, batch_size="auto", learning_rate_multiplier=0.5))
    assert spec.train.optim.epochs == 2
    assert not spec.train.optim.HasField("batch_size")
    assert learning_rate_multiplier(spec) == 0.5
    assert not spec.train.optim.HasField("learning_rate"), "only a plan tells what is multiplied"
    assert learning_rate_multiplier(job_spec(ASKED)) is None


def test_a_part_of_a_job_file_goes_before_what_stands_beside_it() -> None:
    part = {"train": {"adapter": {}, "optim": {"epochs": 5}}, "backend": "trl"}
    spec = job_spec(supervised(n_epochs=2) | {"tunefleet": part})
    assert (spec.train.optim.epochs, spec.backend) == (5, "trl")
    assert not spec.train.HasField("adapter"), "`adapter: {}` is full fine-tuning"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"training_file": "x"}, "model"),
        ({"model": "m"}, "training_file"),
        (ASKED | {"sufix": "x"}, "sufix"),
        (ASKED | {"seed": -1}, "seed"),
        (ASKED | {"seed": True}, "seed"),
        (ASKED | {"metadata": {"a": 1}}, "metadata"),
        (ASKED | {"method": {"type": "kto"}}, "method.type"),
        (ASKED | {"method": {"type": "reinforcement"}}, "method.reinforcement.grader"),
        (ASKED | {"tunefleet": {"trian": {}}}, "tunefleet"),
        (ASKED | {"integrations": [{"type": "other"}]}, "integrations[0].type"),
        (supervised(beta=1), "beta"),
        (supervised(n_epochs=1.5), "n_epochs"),
        (supervised(learning_rate_multiplier=float("nan")), "learning_rate_multiplier"),
        (supervised(reasoning_effort="low"), "reasoning_effort"),
        (supervised(epochs=1), "epochs"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        job_spec(body)
    assert (caught.value.reason, caught.value.metadata["field"]) == (Reason.FIELD_INVALID, field)


def test_graders_are_rewards_and_back_where_openai_has_a_word_for_it() -> None:
    (reward,) = rewards_of(GRADER, "grader")
    assert (reward.name, reward.options["field"]) == ("exact_match", "solution")
    assert grader_of([reward]) == GRADER | {"name": "exact_match", "reference": "{{item.solution}}"}
    ours = {"type": "reward", "name": "regex", "weight": 2, "options": {"pattern": "a"}}
    both = rewards_of({"type": "multi", "graders": {"a": GRADER, "b": ours}}, "grader")
    assert [(item.name, item.weight) for item in both] == [("exact_match", 0), ("regex", 2)]
    assert grader_of(both) is None
    assert grader_of([Reward(name="json_valid")]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"type": "python", "source": "x"},
        GRADER | {"operation": "like"},
        GRADER | {"input": "fixed"},
        {"type": "multi", "graders": {}},
        {"type": "multi", "graders": {"a": GRADER}, "calculate_output": "a * 2"},
        {"type": "reward", "name": "regex", "pattern": "a"},
    ],
)
def test_a_grader_that_no_reward_does_the_work_of_is_refused(wrong: object) -> None:
    with pytest.raises(TunefleetError) as caught:
        rewards_of(wrong, "grader")
    assert "reward" in caught.value.hint


def test_a_failed_job_says_why_and_a_paused_one_is_told_beside_openais_words() -> None:
    job = Job(name="projects/lab/jobs/tickets-x7k2", spec=job_spec(ASKED), state=JobState.JOB_STATE_FAILED)
    why = TunefleetError(Reason.OUT_OF_MEMORY, "It ran out of memory.", hint="Halve the batch.")
    job.error.CopyFrom(status_from_error(why))
    shown = job_document(job)
    assert (shown["id"], shown["status"], shown["organization_id"]) == ("tickets-x7k2", "failed", "lab")
    assert shown["error"] == {
        "code": "out_of_memory",
        "message": "It ran out of memory. Halve the batch.",
        "param": None,
    }
    job.state = JobState.JOB_STATE_PAUSED
    assert (job_document(job)["status"], job_document(job)["state"]) == ("queued", "PAUSED")
    job.result.model = "projects/lab/models/tickets-x7k2"
    assert job_document(job)["fine_tuned_model"] == "ft:Qwen/Qwen3-0.6B:lab:tickets-x7k2"


@pytest.mark.parametrize("base", ["Qwen/Qwen3-0.6B", "/srv/models/a:b", "models/first"])
def test_names_are_read_back_as_they_were_made(base: str) -> None:
    found = parse_fine_tuned_name(fine_tuned_name(base, "default", "tickets"))
    assert found is not None
    assert (found.base, found.project, found.model) == (base, "default", "tickets")


@pytest.mark.parametrize("name", ["tickets", "ft:", "ft:a", "ft:a:b", "ft:::", "ft:a::b", "FT:a:b:c"])
def test_what_is_no_such_name_is_none(name: str) -> None:
    assert parse_fine_tuned_name(name) is None
