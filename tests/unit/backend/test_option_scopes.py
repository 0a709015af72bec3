"""An option can take away what a backend does without it: such a job is refused at submit, naming both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.spec_pb2 import JobSpec, TrainSpec
from tunefleet_core.backend import backend_manifest, manifest_for, option_scope, require_capabilities
from tunefleet_core.errors import Reason, TunefleetError


@pytest.fixture
def manifest() -> BackendManifest:
    return backend_manifest(
        name="mine",
        distribution="mine",
        summary="",
        capabilities=[
            Capability.CAPABILITY_TRAIN,
            Capability.CAPABILITY_SFT,
            Capability.CAPABILITY_LORA,
            Capability.CAPABILITY_DORA,
        ],
        device_kinds=["cpu"],
        methods=["dpo"],
        distributed_methods=["sft", "dpo"],
        trained_formats=["nf4"],
        choices={"train.optim.optimizer": ["muon"], "train.optim.schedule": ["wsd"]},
        option_scopes=[
            option_scope(
                option="split",
                value="all",
                without=[Capability.CAPABILITY_DORA],
                distributed_methods=["sft"],
                choices={"train.optim.schedule": ["wsd"]},
                least_devices=2,
            )
        ],
    )


def job(split: str = "all", *, devices: int = 2) -> JobSpec:
    spec = JobSpec(name="mine", backend="mine")
    spec.train.method.sft.SetInParent()
    spec.train.adapter.lora.SetInParent()
    spec.train.optim.schedule = "wsd"
    spec.resources.devices = devices
    if split:
        spec.backend_options.update({"split": split})
    return spec


CHANGES: dict[str, Callable[[TrainSpec], object]] = {
    "train.quantization": lambda train: setattr(train, "quantization", "nf4"),
    "train.method.dpo": lambda train: train.method.dpo.SetInParent(),
    "train.adapter.lora.dora": lambda train: setattr(train.adapter.lora, "dora", True),
    "train.optim.optimizer": lambda train: setattr(train.optim, "optimizer", "muon"),
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_what_an_option_leaves_out_is_refused_with_it_and_taken_without(
    manifest: BackendManifest, field: str
) -> None:
    for split in ("", "none"):
        spec = job(split)
        CHANGES[field](spec.train)
        require_capabilities(spec, manifest)
    spec = job()
    CHANGES[field](spec.train)
    with pytest.raises(TunefleetError, match=f"{field}.*'mine with split: all'") as caught:
        require_capabilities(spec, manifest)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert caught.value.violations[0].field == field


def test_what_it_leaves_is_taken(manifest: BackendManifest) -> None:
    require_capabilities(job(), manifest)


@pytest.mark.parametrize("devices", [0, 1])
def test_an_option_that_needs_several_devices_is_refused_with_one(
    manifest: BackendManifest, devices: int
) -> None:
    with pytest.raises(TunefleetError, match="all needs 2 devices or more") as caught:
        require_capabilities(job(devices=devices), manifest)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "backend_options.split"
    require_capabilities(job("", devices=devices), manifest)


def test_the_manifest_itself_stays_as_it_is(manifest: BackendManifest) -> None:
    before = manifest.SerializeToString(deterministic=True)
    manifest_for(job(), manifest)
    assert manifest.SerializeToString(deterministic=True) == before
