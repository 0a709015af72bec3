"""What resolving refuses, and what it tells a person."""

from __future__ import annotations

import pytest
from resolve_lab import FAMILY, TRAINERS, base_facts, chosen, mask, refusal, resolve, texts, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.inspect_pb2 import AuditResult
from tunefleet.dataset.v1.audit_pb2 import MaskAudit, PrefixBreak
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import draft_train, finish_train


def test_rows_without_a_trained_token_are_refused() -> None:
    error = refusal(Reason.NO_TRAINED_TOKEN, lambda: resolve(train_spec(), mask(trained_tokens=0)))
    assert error.message == (
        "None of the 32000 tokens in 320 rows would carry loss: loss is on what the assistant says, and the "
        "template marks nothing as said by it; the first row is '<user>Hi!'."
    )
    refusal(Reason.NO_TRAINED_TOKEN, lambda: resolve(train_spec(), mask(rows_without_loss=320)))
    spec = train_spec()
    spec.train.loss_on = "all"
    bare = mask(trained_tokens=0, first_rows=[])
    error = refusal(Reason.NO_TRAINED_TOKEN, lambda: resolve(spec, bare))
    assert error.message.endswith("would carry loss: every row is empty or a single token.")


def test_a_template_that_renders_other_tokens_is_refused_with_the_first_difference() -> None:
    error = refusal(
        Reason.TEMPLATE_MISMATCH, lambda: resolve(train_spec(), difference="token 3 is 'a', not 'b'.")
    )
    assert error.message.endswith(
        "renders other tokens than the base's own template: token 3 is 'a', not 'b'."
    )


@pytest.mark.parametrize(
    ("given", "policy", "found", "positions", "expected"),
    [
        (100, "", mask(rows_over_long=17), 4096, "17 of 320 rows are longer than 100 tokens; the longest"),
        (100, "error", mask(rows_over_long=1), 4096, "1 of 320 rows are longer than 100 tokens"),
        (100, "drop", mask(rows_over_long=320), 4096, "320 of 320 rows are longer than 100 tokens"),
        (0, "", mask(), 100, "More than 5 % of 320 rows are longer than 100 tokens; the longest has 180."),
        (0, "error", mask(), 160, "Some of 320 rows are longer than 160 tokens; the longest has 180."),
        (0, "", mask(rows=1, length_percentiles=[180, 180, 180]), 100, "More than 5 % of 1 rows"),
    ],
)  # fmt: skip
def test_too_many_rows_that_are_too_long_are_refused(
    given: int, policy: str, found: MaskAudit, positions: int, expected: str
) -> None:
    spec = train_spec()
    spec.train.over_long = policy
    if given:
        spec.train.max_length = given
    facts = base_facts(max_positions=positions)
    error = refusal(Reason.DATA_INVALID, lambda: resolve(spec, found, facts=facts))
    assert error.message.startswith(expected)
    assert ("Set train.max_length: 180" in error.hint) is (positions >= 180)


@pytest.mark.parametrize(
    ("given", "policy", "found", "length", "fate", "notice"),
    [
        (100, "", mask(rows_over_long=16), 100, "drop", "16 training rows longer than 100 tokens are left o"),
        (100, "drop", mask(rows_over_long=300), 100, "drop", "300 training rows longer than 100 tokens"),
        (0, "", mask(length_percentiles=[9, 64, 70]), 64, "drop", "Up to 16 training rows longer than 64 to"),
        (0, "error", mask(length_percentiles=[9, 64, 70]), 128, "error", ""),
        (0, "", mask(length_percentiles=[1, 1, 1]), 64, "error", ""),
    ],
)  # fmt: skip
def test_the_fate_of_long_rows_is_decided_and_told(
    given: int, policy: str, found: MaskAudit, length: int, fate: str, notice: str
) -> None:
    spec = train_spec()
    spec.train.over_long = policy
    if given:
        spec.train.max_length = given
    resolution = resolve(spec, found)
    train = resolution.spec.spec.train
    assert (train.max_length, train.over_long) == (length, fate)
    assert (notice in texts(resolution)) if notice else ("left out" not in texts(resolution))


def test_a_length_beyond_the_base_is_refused() -> None:
    spec = train_spec()
    spec.train.max_length = 5000
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec))
    assert error.message == "train.max_length: must be at most 4096, the positions of the base, got 5000"


def test_a_job_without_trouble_has_no_notice() -> None:
    assert resolve(train_spec()).notices == ()


def with_lora(**values: float) -> JobSpec:
    spec = train_spec()
    for name, value in values.items():
        setattr(spec.train.adapter.lora, name, value)
    return spec


def with_rate(rate: float, *, adapter: bool = True) -> JobSpec:
    spec = train_spec(adapter=adapter)
    spec.train.optim.learning_rate = rate
    return spec


BREAK = PrefixBreak(line=4, turn=2, trained="a", served="b")


@pytest.mark.parametrize(
    ("spec", "found", "facts", "expected"),
    [
        (train_spec(), mask(rows=99), base_facts(), "There are only 99 training rows; fewer than 100"),
        (train_spec(validation=False), mask(), base_facts(), "There are no validation rows, so over-fitting"),
        (with_lora(rank=16, alpha=80), mask(), base_facts(), "The scale alpha / rank is 5, outside 0.5 to 4"),
        (with_lora(rank=16, alpha=4), mask(), base_facts(), "The scale alpha / rank is 0.25, outside 0.5 to"),
        (with_rate(2e-3), mask(), base_facts(), "The learning rate 0.002 is high for an adapter; above 0.00"),
        (with_rate(1e-7), mask(), base_facts(), "The learning rate 1e-07 is low for an adapter; below 1e-06"),
        (with_rate(1e-4, adapter=False), mask(), base_facts(), "The learning rate 0.0001 is high for full f"),
        (train_spec(), mask(rows_without_loss=2), base_facts(), "2 of 320 rows carry no loss and teach noth"),
        (train_spec(), mask(end_of_turn_trained=False), base_facts(), "The token that ends an answer carrie"),
        (train_spec(), mask(prefix_breaks=[BREAK]), base_facts(), "first on line 4, turn 2: trained 'a', se"),
        (
            train_spec(),
            mask(prefix_breaks=[BREAK], rows_with_prefix_breaks=3, rows_checked_as_prompts=200),
            base_facts(),
            "In 3 of 200 rows that were checked the prompt that is served is not the start of what is",
        ),
        (
            train_spec(),
            mask(rows_with_thoughts_left_out=3, first_line_with_thoughts_left_out=5),
            base_facts(),
            "The chat template leaves thoughts out of 3 of 320 rows, first on line 5: they are not trained.",
        ),
    ],
)  # fmt: skip
def test_what_deserves_a_notice_gets_one(
    spec: JobSpec, found: MaskAudit, facts: BaseFacts, expected: str
) -> None:
    resolution = resolve(spec, found, facts=facts)
    assert len(resolution.notices) == 1
    assert expected in resolution.notices[0].text


def test_a_base_that_cannot_stop_and_validation_without_loss_are_told() -> None:
    facts = base_facts()
    del facts.eos_token_ids[:], facts.special_tokens[:]
    assert "No token is known to end an answer" in texts(resolve(train_spec(), facts=facts))
    told = texts(resolve(train_spec(), mask(), mask(trained_tokens=0)))
    assert told == "No token of the validation rows carries loss, so there will be no validation loss."


@pytest.mark.parametrize(
    ("spec", "missing", "word"),
    [
        (train_spec(), Capability.CAPABILITY_SFT, "SFT"),
        (train_spec(), Capability.CAPABILITY_LORA, "LORA"),
        (train_spec(adapter=False), Capability.CAPABILITY_FULL_FINE_TUNING, "FULL_FINE_TUNING"),
    ],
)
def test_a_backend_that_lacks_a_capability_is_refused(
    spec: JobSpec, missing: Capability.ValueType, word: str
) -> None:
    backend = chosen(capabilities=[item for item in TRAINERS if item != missing])
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(spec, backend=backend))
    assert error.metadata["capability"] == word


def test_a_backend_that_does_not_spread_a_method_over_devices_says_so() -> None:
    spec = train_spec()
    spec.resources.devices = 2
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(spec, backend=chosen()))
    assert error.violations[0].field == "resources.devices"
    assert "does training by sft on one device" in error.message
    spread = chosen(distributed_methods=["sft"], methods=["dpo"])
    resolved = resolve(spec, backend=spread).spec.spec
    assert resolved.train.optim.batch_size == 16, "the same whatever the number of devices"
    assert resolved.train.optim.micro_batch_size == 8, "half of it, for each"
    spec.train.method.dpo.SetInParent()
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(spec, backend=spread))
    assert "training by dpo on one device; on several it trains by sft" in error.message


def test_options_are_checked_against_the_schema_of_the_backend() -> None:
    spec = train_spec()
    spec.backend_options["steps"] = 4
    spec.backend_options["names"] = ["a"]
    resolve(spec)
    spec.backend_options["steps"] = 0.5
    spec.backend_options["names"] = ["a", 3]
    spec.backend_options["other"] = True
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec))
    assert {item.field for item in error.violations} == {
        "backend_options",
        "backend_options.names[1]",
        "backend_options.steps",
    }
    assert error.hint == "Options of the backend 'trl': names, steps."
    bare = chosen(options_schema=None)
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, backend=bare))
    assert error.message == "backend_options: is given, but the backend 'trl' takes no options"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:9/schema.json"}])
def test_a_schema_that_cannot_be_used_is_the_backends_failure(schema: dict[str, object]) -> None:
    spec = train_spec()
    spec.backend_options["steps"] = 4
    refusal(Reason.BACKEND_FAILED, lambda: resolve(spec, backend=chosen(options_schema=schema)))


def test_an_audit_of_other_files_or_without_lengths_is_the_backends_failure() -> None:
    draft = draft_train(train_spec(), base_facts(), FAMILY)
    refusal(Reason.BACKEND_FAILED, lambda: finish_train(draft, AuditResult(), chosen()))
    refusal(Reason.BACKEND_FAILED, lambda: resolve(train_spec(), mask(length_percentiles=[])))
