"""The rules of a spec, applied to messages that were built by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.spec import find_violations, validate_spec


def train_spec() -> JobSpec:
    spec = JobSpec(name="x")
    spec.train.base.model = "org/base"
    spec.train.data.train.add(source="/a.jsonl")
    spec.train.adapter.lora.SetInParent()
    return spec


def evaluate_spec() -> JobSpec:
    spec = JobSpec(name="x")
    spec.evaluate.model.model = "models/a"
    spec.evaluate.data = "/a.jsonl"
    return spec


def setting(path: str, value: object) -> Callable[[], JobSpec]:
    def build() -> JobSpec:
        spec = evaluate_spec() if path.startswith("evaluate.") else train_spec()
        *parents, name = path.split(".")
        message = spec
        for parent in parents:
            message = getattr(message, parent)
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
        return spec

    return build


def test_good_specs_have_no_violation() -> None:
    assert find_violations(train_spec()) == []
    assert find_violations(evaluate_spec()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "a"),
        ("name", "a" * 63),
        ("train.optim.learning_rate", 1.0),
        ("train.optim.warmup_ratio", 0.5),
        ("train.optim.max_steps", 0),
        ("train.adapter.lora.dropout", 0.0),
        ("train.adapter.lora.alpha", 0.16),
        ("train.adapter.lora.alpha", 1024.0),
        ("train.optim.micro_batch_size", 8),
        ("train.seed", 2**32 - 1),
        ("evaluate.metrics", ["exact_match", "f1"]),
        ("evaluate.example_count", 0),
    ],
)
def test_the_ends_of_a_range_belong_to_it(path: str, value: object) -> None:
    assert find_violations(setting(path, value)()) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("name", "", "is missing"),
        ("name", "1a", "must be 1 to 63 lower-case letters"),
        ("name", "a-", "must be 1 to 63 lower-case letters"),
        ("name", "a\n", "must be 1 to 63 lower-case letters"),
        ("name", "a" * 64, "must be 1 to 63 lower-case letters"),
        ("backend", "My Backend", "must be 1 to 63 lower-case letters"),
        ("max_attempts", 0, "must be greater than 0, got 0"),
        ("resources.devices", -1, "must be greater than 0, got -1"),
        ("train.base.model", "", "is missing; name a local folder or a Hub id"),
        ("train.adapter.lora.rank", 0, "must be greater than 0 and at most 4,096, got 0"),
        ("train.adapter.lora.alpha", 0.0, "must be greater than 0, got 0"),
        ("train.adapter.lora.alpha", 0.1, "makes the scale alpha / rank 0.00625, which must lie between"),
        ("train.adapter.lora.alpha", 1040.0, "makes the scale alpha / rank 65, which must lie between"),
        ("train.adapter.lora.alpha", math.inf, "must be greater than 0, got inf"),
        ("train.adapter.lora.dropout", 1.0, "must be at least 0 and below 1, got 1"),
        ("train.adapter.lora.dropout", math.nan, "must be at least 0 and below 1, got nan"),
        ("train.optim.learning_rate", 0.0, "must be greater than 0 and at most 1, got 0"),
        ("train.optim.learning_rate", 1.5, "must be greater than 0 and at most 1, got 1.5"),
        ("train.optim.learning_rate", math.nan, "must be greater than 0 and at most 1, got nan"),
        ("train.optim.epochs", -1.0, "must be greater than 0 and at most 1,000,000, got -1"),
        ("train.optim.epochs", 1e30, "must be greater than 0 and at most 1,000,000, got 1e+30"),
        ("train.optim.epochs", math.inf, "must be greater than 0 and at most 1,000,000, got inf"),
        ("train.optim.batch_size", 0, "must be greater than 0, got 0"),
        ("train.optim.micro_batch_size", 3, "must divide batch_size 16, the default, evenly, got 3"),
        (
            "train.optim.schedule",
            "cosin",
            "must be one of cosine, linear, constant, wsd, got 'cosin'; did you mean",
        ),
        ("train.optim.warmup_ratio", 0.6, "must be at least 0 and at most 0.5, got 0.6"),
        ("train.optim.max_grad_norm", 0.0, "must be greater than 0, got 0"),
        ("train.optim.weight_decay", -0.1, "must be at least 0 and below 1, got -0.1"),
        ("train.optim.max_steps", -1, "must be at least 0"),
        ("train.max_length", 0, "must be greater than 0, got 0"),
        ("train.over_long", "truncate", "must be one of error, drop, got 'truncate'"),
        ("train.seed", -1, "must be at least 0 and below"),
        (
            "train.dtype",
            "fp16",
            "must be one of float32, bfloat16, float16, got 'fp16'; did you mean 'float16'?",
        ),
        ("train.quantization", "nf8", "must be one of nf4, fp4, int8, mlx4, mlx8, got 'nf8'"),
        ("train.dtype", "bf16", "must be one of float32, bfloat16, float16, got 'bf16'; did you mean"),
        ("train.loss_on", "everything", "must be one of assistant, all, got 'everything'"),
        ("train.checkpoint.every_steps", 0, "must be greater than 0, got 0"),
        ("train.checkpoint.keep", 0, "must be greater than 0, got 0"),
        ("evaluate.model.model", "", "is missing; name models/<name>, a local folder or a Hub id"),
        ("evaluate.data", "", "is missing; name a JSONL file"),
        ("evaluate.example_count", 65, "must be at least 0 and at most 64, got 65"),
        ("evaluate.metrics", ["f1", "f1"], "names a metric twice"),
        ("evaluate.max_new_tokens", 0, "must be greater than 0, got 0"),
        ("evaluate.batch_size", 0, "must be greater than 0, got 0"),
    ],
)
def test_a_value_out_of_range_is_refused(path: str, value: object, expected: str) -> None:
    violations = find_violations(setting(path, value)())
    assert [violation.field for violation in violations][:1] == [path]
    assert violations[0].description.startswith(expected)


def test_the_scale_is_bounded_by_the_formula_that_applies() -> None:
    spec = train_spec()
    spec.train.adapter.lora.alpha = 65.0  # over 16: scale 4.06; over its root: 16.25
    assert find_violations(spec) == []
    spec.train.adapter.lora.rslora = True
    assert find_violations(spec) == []
    spec.train.adapter.lora.alpha = 257.0
    (violation,) = find_violations(spec)
    assert violation.description.startswith("makes the scale alpha / sqrt(rank) 64.25, which must lie")
    spec.train.adapter.lora.rank = 0
    assert [item.field for item in find_violations(spec)] == ["train.adapter.lora.rank"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (
            "quantization",
            "nf4",
            "nf4 weights cannot be trained in full, only an adapter on them; add",
        ),
        ("merge", True, "needs an adapter to merge: full fine-tuning writes a whole model already"),
    ],
)
def test_what_needs_an_adapter_is_refused_without_one(field: str, value: object, expected: str) -> None:
    spec = train_spec()
    setattr(spec.train, field, value)
    assert find_violations(spec) == []
    spec.train.ClearField("adapter")
    (violation,) = find_violations(spec)
    assert violation.field == f"train.{field}"
    assert violation.description.startswith(expected)


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"adapter.lora.layers": ["5-3"]}, "adapter.lora.layers[0]", "must be a layer or a range"),
        ({"adapter.lora.init": "pisa"}, "adapter.lora.init", "must be one of default, pissa, olora, loftq"),
        ({"adapter.lora.init": "loftq"}, "adapter.lora.init", "loftq begins with what quantising takes"),
        (
            {"adapter.lora.init": "loftq", "quantization": "nf4", "adapter.lora.rslora": True},
            "adapter.lora.init",
            "loftq cannot",
        ),
        (
            {"adapter.lora.init": "pissa", "adapter.lora.dora": True},
            "adapter.lora.init",
            "pissa cannot",
        ),
        (
            {"adapter.lora.init": "olora", "quantization": "nf4"},
            "adapter.lora.init",
            "olora cannot",
        ),
        ({"adapter.lora.lora_plus_ratio": 0.5}, "adapter.lora.lora_plus_ratio", "must be at least 1"),
        ({"optim.optimizer": "adam"}, "optim.optimizer", "must be one of adamw, adamw_8bit"),
        ({"optim.decay_ratio": 0.2}, "optim.decay_ratio", "is for the schedule wsd, not for cosine"),
        ({"optim.schedule": "constant", "optim.min_lr_ratio": 0.1}, "optim.min_lr_ratio", "has no sense"),
        ({"optim.optimizer": "lion", "optim.epsilon": 1e-6}, "optim.epsilon", "is nothing that lion knows"),
        (
            {"optim.max_steps": 10, "optim.warmup_steps": 11},
            "optim.warmup_steps",
            "must be at most",
        ),
    ],
)
def test_what_cannot_be_combined_is_named(given: dict[str, object], field: str, expected: str) -> None:
    spec = setting("train.adapter.lora.rank", 8)()
    for path, value in given.items():
        *parents, name = path.split(".")
        message: object = spec.train
        for parent in parents:
            message = getattr(message, parent)
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    violations = [item for item in find_violations(spec) if item.field == f"train.{field}"]
    assert violations
    assert violations[0].description.startswith(expected)


def test_items_of_lists_are_named_by_their_index() -> None:
    spec = train_spec()
    spec.train.data.train.add(source="/b.jsonl", weight=0)
    spec.train.data.train.add()
    spec.train.adapter.lora.targets.extend(["q_proj", " "])
    assert [(item.field, item.description) for item in find_violations(spec)] == [
        ("train.data.train[2].source", "is missing; name a JSONL file"),
        ("train.data.train[1].weight", "must be greater than 0, got 0"),
        ("train.adapter.lora.targets[1]", "is empty; name a module or all-linear"),
    ]
    metrics = setting("evaluate.metrics", ["f1", "bleu"])()
    assert [item.field for item in find_violations(metrics)] == ["evaluate.metrics[1]"]


def test_a_spec_without_work_or_with_hollow_parts_is_refused() -> None:
    assert find_violations(JobSpec(name="x"))[0].description == "is missing; give train or evaluate"
    hollow = train_spec()
    hollow.train.adapter.Clear()
    hollow.train.adapter.SetInParent()
    hollow.train.method.SetInParent()
    assert [item.field for item in find_violations(hollow)] == ["train.adapter", "train.method"]
    bare = JobSpec(name="x")
    bare.train.SetInParent()
    assert [item.field for item in find_violations(bare)] == ["train.base.model", "train.data.train"]


def test_examples_need_a_file() -> None:
    spec = evaluate_spec()
    spec.evaluate.example_count = 2
    assert find_violations(spec)[0].description == "needs a file of examples in evaluate.examples"


def test_labels_need_a_name_and_options_must_be_finite() -> None:
    spec = train_spec()
    spec.labels[""] = "x"
    spec.backend_options["a"] = [{"b": math.nan}]
    assert [item.field for item in find_violations(spec)] == ["backend_options", "labels"]


def test_validate_tells_every_violation_at_once() -> None:
    with pytest.raises(TunefleetError) as caught:
        validate_spec(JobSpec())
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.message == "name: is missing\ntrain: is missing; give train or evaluate"
    assert [item.field for item in caught.value.violations] == ["name", "train"]
    validate_spec(train_spec())


@pytest.mark.parametrize(
    ("devices", "batch", "micro", "field", "said"),
    [
        (3, 16, None, "train.optim.batch_size", "is 16, which 3 devices cannot share evenly; set it to 15"),
        (3, None, None, "train.optim.batch_size", "is 16 (the default), which 3 devices cannot share"),
        (32, 16, None, "train.optim.batch_size", "set it to 32"),
        (4, 16, 8, "train.optim.micro_batch_size", "must divide the 4 rows of a step that each of 4 devices"),
    ],
)
def test_a_step_that_devices_cannot_share_evenly_is_refused(
    devices: int, batch: int | None, micro: int | None, field: str, said: str
) -> None:
    spec = train_spec()
    spec.resources.devices = devices
    if batch is not None:
        spec.train.optim.batch_size = batch
    if micro is not None:
        spec.train.optim.micro_batch_size = micro
    (violation,) = find_violations(spec)
    assert violation.field == field
    assert said in violation.description


@pytest.mark.parametrize(("devices", "batch", "micro"), [(1, 15, 5), (2, 16, 8), (4, 16, 4), (8, 8, 1)])
def test_a_step_that_devices_share_evenly_is_taken(devices: int, batch: int, micro: int) -> None:
    spec = train_spec()
    spec.resources.devices, spec.train.optim.batch_size, spec.train.optim.micro_batch_size = (
        devices,
        batch,
        micro,
    )
    assert find_violations(spec) == []
