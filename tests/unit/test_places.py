"""A job is placed on a trainer that has as many devices as it asks for, or refused with what there is."""

from __future__ import annotations

import pytest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.places import choose_place
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.testing import samples


def trainer(name: str, devices: dict[str, str]) -> Service:
    able = [Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_INSPECT]
    backends = [samples.backend("trl", capabilities=able)]
    return samples.service(f"services/{name}", devices=devices, backends=backends)


def job(devices: int) -> JobSpec:
    spec = JobSpec(name="x")
    spec.resources.devices = devices
    return spec


FLEET = (
    trainer("small", {"cpu-0": "cpu"}),
    trainer("mixed", {"cpu-0": "cpu", "cpu-1": "cpu"}),
    trainer("large", {f"gpu-{number}": "cuda" for number in range(4)}),
)


@pytest.mark.parametrize(("devices", "name"), [(1, "small"), (2, "mixed"), (3, "large"), (4, "large")])
def test_the_first_trainer_with_devices_enough_is_taken(devices: int, name: str) -> None:
    assert choose_place(job(devices), FLEET).service == f"services/{name}"


@pytest.mark.parametrize(
    ("devices", "fleet", "most"), [(5, FLEET, 4), (3, FLEET[:2], 2), (8, FLEET[::-1], 4)]
)
def test_more_devices_than_any_host_has_are_refused(
    devices: int, fleet: tuple[Service, ...], most: int
) -> None:
    with pytest.raises(TunefleetError, match=f"asks for {devices} on one host") as caught:
        choose_place(job(devices), fleet)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert f"has {most}" in caught.value.message
    assert f"Set resources.devices to {most}" in caught.value.hint
    assert caught.value.violations[0].field == "resources.devices"


@pytest.mark.parametrize(
    ("devices", "backend"), [({"cpu-0": "cpu"}, "trl"), ({"gpu-0": "metal", "cpu-0": "cpu"}, "mlx")]
)
def test_a_host_s_jobs_go_to_the_backend_that_is_made_for_its_devices(
    devices: dict[str, str], backend: str
) -> None:
    able = [Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_INSPECT]
    both = [samples.backend(name, capabilities=able) for name in ("mlx", "trl")]
    both[0].manifest.device_kinds[:] = ["metal", "cpu"]
    both[1].manifest.device_kinds[:] = ["cpu", "cuda"]
    fleet = [samples.service("services/one", devices=devices, backends=both)]
    assert choose_place(job(1), fleet).backend.manifest.name == backend
    named = job(1)
    named.backend = "mlx"
    assert choose_place(named, fleet).backend.manifest.name == "mlx"


def test_a_job_goes_to_the_backend_that_does_it_and_else_to_the_one_that_does_more() -> None:
    able = [Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_INSPECT]
    more = [*able, Capability.CAPABILITY_EVALUATE, Capability.CAPABILITY_MERGE]
    narrow, broad = (
        samples.service(
            f"services/{name}", devices={"cpu-0": "cpu"}, backends=[samples.backend(name, capabilities=can)]
        )
        for name, can in (("deepspeed", able), ("trl", more))
    )
    both = samples.service(
        "services/both", devices={"cpu-0": "cpu"}, backends=[*narrow.backends, *broad.backends]
    )
    score = JobSpec(name="x")
    score.evaluate.model.model = "models/y"
    for fleet in ((both,), (narrow, broad)):
        assert choose_place(score, fleet).backend.manifest.name == "trl"
    assert choose_place(job(1), (both,)).backend.manifest.name == "trl"
    assert choose_place(score, (narrow,)).backend.manifest.name == "deepspeed", (
        "whose refusal says what it lacks"
    )
    score.backend = "deepspeed"
    assert choose_place(score, (both,)).backend.manifest.name == "deepspeed"
