"""What `tracking` may hold, and who is refused at submit because nobody could tell it anything."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind
from tunefleet.job.v1.spec_pb2 import (
    BaseModel,
    DataSource,
    DataSpec,
    EvaluateSpec,
    JobSpec,
    Tracker,
    TrainSpec,
)
from tunefleet_coordinator.trackers import require_trackers
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.spec import find_violations


def spec(*trackers: Tracker) -> JobSpec:
    train = TrainSpec(base=BaseModel(model="b"), data=DataSpec(train=[DataSource(source="rows.jsonl")]))
    return JobSpec(name="tickets", train=train, tracking=trackers)


def violations(made: JobSpec) -> dict[str, str]:
    return {violation.field: violation.description for violation in find_violations(made)}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "tensorboard", "project": "support.v2"},
        {"name": "wandb", "entity": "my-team", "api_key": "WANDB"},
        {"name": "wandb", "url": "https://wandb.example.org"},
        {"name": "mlflow", "url": "http://10.0.0.2:5000", "api_key": "MLFLOW"},
        {"name": "a-plugins-own", "url": "https://x.org"},
    ],
)
def test_trackers_that_are_right_are_taken(fields: dict[str, Any]) -> None:
    assert violations(spec(Tracker(**fields))) == {}


@pytest.mark.parametrize(
    ("fields", "field", "what"),
    [
        ({}, "name", "is missing"),
        ({"name": "tensorboard", "project": "../../etc"}, "project", "letters, digits"),
        ({"name": "tensorboard", "api_key": "KEY"}, "api_key", "keeps files"),
        ({"name": "trackio", "url": "https://x.org"}, "url", "keeps files"),
        ({"name": "mlflow", "entity": "me"}, "entity", "nothing that mlflow knows"),
        ({"name": "mlflow", "api_key": "KEY"}, "url", "is missing"),
        ({"name": "mlflow", "url": "sqlite:///x.db"}, "url", "http://"),
        ({"name": "mlflow", "url": "https://ada:pass@x.org"}, "url", "must not hold"),
        ({"name": "wandb", "url": "https://x.org?key=1"}, "url", "must not hold"),
        ({"name": "wandb", "api_key": "0123456789abcdef"}, "api_key", "never the key itself"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(fields: dict[str, Any], field: str, what: str) -> None:
    found = violations(spec(Tracker(**fields)))
    assert list(found) == [f"tracking[0].{field}"]
    assert what in found[f"tracking[0].{field}"]


def test_a_tracker_is_named_once_and_follows_training_alone() -> None:
    assert violations(spec(Tracker(name="wandb"), Tracker(name="wandb"))) == {
        "tracking[1].name": "names wandb a second time"
    }
    scored = JobSpec(name="t", evaluate=EvaluateSpec(model=BaseModel(model="b"), data="d"))
    scored.tracking.add(name="wandb")
    assert list(violations(scored)) == ["tracking"]


def trainer(*backends: BackendManifest) -> Service:
    installed = [InstalledBackend(manifest=manifest, status="ACTIVE") for manifest in backends]
    return Service(name="services/t", kind=ServiceKind.SERVICE_KIND_TRAINER, backends=installed)


_TRL = BackendManifest(name="trl")
_TRACKING = BackendManifest(name="tracking", trackers=["mlflow", "wandb"])


def test_a_tracker_counts_where_the_backend_of_the_job_is() -> None:
    wanted = spec(Tracker(name="wandb"))
    require_trackers(wanted, [trainer(_TRL, _TRACKING)], backend="trl")
    apart = [trainer(_TRL), trainer(BackendManifest(name="echo"), _TRACKING)]
    with pytest.raises(TunefleetError) as refused:
        require_trackers(wanted, apart, backend="trl")
    assert refused.value.reason is Reason.BACKEND_NOT_INSTALLED
    assert refused.value.metadata["field"] == "tracking[0].name"
    assert "tunefleet plugins install tracking" in refused.value.hint
    with pytest.raises(TunefleetError, match="there are mlflow, wandb"):
        require_trackers(spec(Tracker(name="wandbb")), [trainer(_TRL, _TRACKING)], backend="trl")
