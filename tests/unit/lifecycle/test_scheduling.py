"""Who gets which device, and in what order."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle import ServiceDetached
from tunefleet_core.testing import samples

GPU = {"gpu-0": "cuda"}
FOUR_GPUS = {f"gpu-{index}": "cuda" for index in range(4)}
CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED


def attach(desk: Any, name: str, now: float = 0, **described: Any) -> None:
    desk.do(samples.attached(now, samples.service(f"services/{name}", **described)))


def where(desk: Any, *job_ids: str) -> list[str]:
    return [desk.job(job_id).service.removeprefix("services/") for job_id in job_ids]


def test_a_job_goes_to_the_first_idle_service_by_name(desk: Any) -> None:
    attach(desk, "b")
    attach(desk, "a")
    for name in ("one", "two", "three"):
        desk.do(samples.submit(0, name))

    assert where(desk, "one", "two", "three") == ["a", "b", ""]
    assert desk.job("three").state == JobState.JOB_STATE_PENDING
    attempt = desk.live("one")
    assert (attempt.attempt, attempt.fencing_number, attempt.device_ids) == (1, 1, ("cpu-0",))


@pytest.mark.parametrize(
    ("described", "asked"),
    [
        ({"backends": [samples.backend("other")]}, {}),
        ({"backends": [samples.backend(status="FAILED")]}, {}),
        ({"backends": [samples.backend(device_kinds=["metal"])]}, {}),
        ({"labels": {"site": "home"}}, {"labels": (("site", "office"),)}),
        ({"labels": {}}, {"labels": (("site", "office"),)}),
        ({"devices": GPU}, {"devices": 2}),
        ({"kind": ServiceKind.SERVICE_KIND_SERVER}, {}),
        ({"kind": ServiceKind.SERVICE_KIND_GATEWAY}, {}),
    ],
)
def test_a_service_that_does_not_fit_gets_nothing(
    desk: Any, described: dict[str, Any], asked: dict[str, Any]
) -> None:
    attach(desk, "a", **described)
    desk.do(samples.submit(0, **asked))
    assert desk.job().state == JobState.JOB_STATE_PENDING
    attach(desk, "b", devices=FOUR_GPUS, labels={"site": "office", "more": "labels"})
    assert where(desk, "job") == ["b"]


def test_a_silent_or_detached_service_gets_nothing_new(desk: Any) -> None:
    attach(desk, "silent")
    attach(desk, "gone")
    desk.do(ServiceDetached(at=samples.moment(1), service="services/gone", epoch=1))
    desk.tick(6)  # beyond a third of the lease term

    desk.do(samples.submit(6))
    assert desk.job().state == JobState.JOB_STATE_PENDING
    desk.do(samples.heartbeat(7, "services/silent"))
    assert where(desk, "job") == ["silent"]


def test_priority_goes_before_turn(desk: Any) -> None:
    for name, priority in (("early", 0), ("late", 0), ("urgent", 9)):
        desk.do(samples.submit(0, name, priority=priority))
    attach(desk, "a", devices={"gpu-0": "cuda", "gpu-1": "cuda"})
    assert where(desk, "early", "late", "urgent") == ["a", "", "a"]


def test_a_job_that_does_not_fit_is_passed_over_and_keeps_its_turn(desk: Any) -> None:
    attach(desk, "a", devices=FOUR_GPUS)
    desk.do(samples.submit(0, "first"))
    desk.do(samples.submit(0, "big", devices=4))
    desk.do(samples.submit(0, "small"))
    assert where(desk, "first", "big", "small") == ["a", "", "a"]

    for name in ("first", "small"):
        desk.run(1, name)
        desk.do(samples.submit(1, f"after-{name}", labels=(("site", "nowhere"),)))
        desk.do(samples.cancel(2, name))
        desk.end(2, CANCELLED, job_id=name)

    assert where(desk, "big") == ["a"]
    assert len(desk.live("big").device_ids) == 4


def test_two_trainers_of_one_host_cannot_book_one_device(desk: Any) -> None:
    attach(desk, "a", host="shared", devices=GPU)
    attach(desk, "b", host="shared", devices=GPU)
    desk.do(samples.submit(0, "one"))
    desk.do(samples.submit(0, "two"))
    assert where(desk, "one", "two") == ["a", ""]

    desk.do(samples.cancel(1, "one"))
    desk.end(1, CANCELLED, job_id="one")
    assert where(desk, "two") == ["a"]


def test_a_job_waits_for_a_gpu_rather_than_take_the_processor_beside_it(desk: Any) -> None:
    attach(desk, "a", devices={"cpu-0": "cpu", "gpu-0": "cuda"})
    desk.do(samples.submit(0, "one"))
    desk.do(samples.submit(0, "two"))
    assert desk.live("one").device_ids == ("gpu-0",)
    assert desk.job("two").state == JobState.JOB_STATE_PENDING


def test_a_backend_that_becomes_active_takes_what_waits(desk: Any) -> None:
    from tunefleet_core.lifecycle import ServiceChanged

    attach(desk, "a", backends=[samples.backend(status="FAILED")])
    desk.do(samples.submit(0))
    desk.do(
        ServiceChanged(at=samples.moment(1), service="services/a", epoch=1, backends=(samples.backend(),))
    )
    assert where(desk, "job") == ["a"]


def test_a_server_on_a_gpu_keeps_trainers_off_it_but_not_off_a_processor(desk: Any) -> None:
    engine = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
    for host, devices in (("gpu-host", GPU), ("cpu-host", {"cpu-0": "cpu"})):
        attach(
            desk,
            f"server-{host}",
            kind=ServiceKind.SERVICE_KIND_SERVER,
            host=host,
            devices=devices,
            backends=[engine],
        )
    desk.do(samples.deployment(0, "one", base=b"base one"))
    desk.do(samples.deployment(0, "two", base=b"base two"))
    rows = [desk.world.replica(f"uid-of-{name}") for name in ("one", "two")]
    assert [(row.host_id, row.device_ids) for row in rows] == [("cpu-host", ()), ("cpu-host", ())]

    desk.do(samples.attached(1, samples.service("services/trainer", host="cpu-host")))
    desk.do(samples.submit(1))
    assert where(desk, "job") == ["trainer"]


def test_an_engine_on_a_gpu_books_it_once_for_all_its_adapters(desk: Any) -> None:
    engine = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
    server = {"kind": ServiceKind.SERVICE_KIND_SERVER, "host": "h", "devices": GPU, "backends": [engine]}
    attach(desk, "server", **server)
    attach(desk, "trainer", host="h", devices=GPU)
    for name, base in (("one", b"same"), ("two", b"same"), ("three", b"other")):
        desk.do(samples.deployment(0, name, base=base))
    rows = [desk.world.replica(f"uid-of-{name}") for name in ("one", "two", "three")]
    assert [row.device_ids for row in rows] == [("gpu-0",), ("gpu-0",), ()]

    desk.do(samples.submit(1))
    assert desk.job().state == JobState.JOB_STATE_PENDING
