"""Options are checked by the schema and become DeepSpeed's configuration; no library is loaded."""

from __future__ import annotations

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import require_capabilities
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import check_backend_options
from tunefleet_deepspeed.options import ZeroOptions, engine_config, zero_options
from tunefleet_deepspeed.plugin import tunefleet_backends


@pytest.fixture
def manifest() -> BackendManifest:
    (found,) = tunefleet_backends()
    return found


def job(**options: object) -> JobSpec:
    spec = JobSpec(name="split", backend="deepspeed")
    spec.train.method.sft.SetInParent()
    spec.train.adapter.lora.SetInParent()
    spec.backend_options.update(options)
    return spec


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zero_stage": 1},
        {"zero_stage": 2, "offload_optimizer": "cpu"},
        {"offload_optimizer": "cpu", "offload_weights": "cpu"},
    ],
)
def test_what_the_schema_takes_becomes_a_configuration(
    manifest: BackendManifest, options: dict[str, object]
) -> None:
    spec = job(**options)
    check_backend_options(spec, manifest)
    zero = engine_config(zero_options(spec), work_dir="run", pins_memory=False)["zero_optimization"]
    assert zero["stage"] == options.get("zero_stage", 3)
    assert ("offload_optimizer" in zero) is ("offload_optimizer" in options)
    assert ("offload_param" in zero) is ("offload_weights" in options)
    assert ("stage3_prefetch_bucket_size" in zero) is (zero["stage"] == 3)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"zero_stage": 4}, "backend_options.zero_stage"),
        ({"offload_optimizer": "tape"}, "backend_options.offload_optimizer"),
        ({"zero_stage": 2, "offload_weights": "cpu"}, "backend_options.zero_stage"),
        ({"stage": 3}, "backend_options"),
    ],
)
def test_what_it_does_not_take_is_refused_at_submit(
    manifest: BackendManifest, options: dict[str, object], field: str
) -> None:
    with pytest.raises(TunefleetError) as caught:
        check_backend_options(job(**options), manifest)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == field


def test_a_worker_refuses_weights_elsewhere_that_are_not_split() -> None:
    with pytest.raises(TunefleetError, match="needs zero_stage 3"):
        zero_options(job(zero_stage=1, offload_weights="cpu"))


def test_a_disk_is_a_folder_of_the_run() -> None:
    options = ZeroOptions(offload_optimizer="nvme", offload_weights="nvme")
    zero = engine_config(options, work_dir="run", pins_memory=True)["zero_optimization"]
    for name in ("offload_optimizer", "offload_param"):
        assert zero[name] == {"device": "nvme", "pin_memory": True, "nvme_path": "run/offloaded"}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("train.quantization", lambda train: setattr(train, "quantization", "nf4")),
        ("train.method", lambda train: train.method.dpo.SetInParent()),
        ("train.method.sft.packing", lambda train: setattr(train.method.sft, "packing", True)),
        ("train.adapter.lora.dora", lambda train: setattr(train.adapter.lora, "dora", True)),
        ("train.merge", lambda train: setattr(train, "merge", True)),
        ("train.optim.optimizer", lambda train: setattr(train.optim, "optimizer", "adamw_8bit")),
    ],
)
def test_what_it_cannot_do_is_refused_at_submit(
    manifest: BackendManifest, field: str, change: object
) -> None:
    spec = job()
    change(spec.train)  # type: ignore[operator]
    with pytest.raises(TunefleetError, match=field) as caught:
        require_capabilities(spec, manifest)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED


def test_supervised_training_is_spread_over_devices(manifest: BackendManifest) -> None:
    spec = job()
    spec.resources.devices = 4
    require_capabilities(spec, manifest)
