"""What resolving yields: defaults with reasons, steps, estimates, digests."""

from __future__ import annotations

import dataclasses

import pytest
from resolve_lab import (
    FAMILY,
    MARKED,
    audit_of,
    base_facts,
    chosen,
    evaluate_spec,
    manifest,
    mask,
    reasons,
    refusal,
    resolve,
    texts,
    train_spec,
)

from tunefleet.dataset.v1.audit_pb2 import LengthCount, ReferenceTokens
from tunefleet.job.v1.resolved_pb2 import ChatTemplate, ResolvedAdapter, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import (
    ChosenBackend,
    digest_of,
    draft_evaluate,
    draft_train,
    finish_evaluate,
    resolve_plain,
)


def test_a_draft_asks_for_the_audit_of_every_file() -> None:
    draft = draft_train(train_spec(), base_facts(), FAMILY)
    order = draft.audit_order
    assert [(file.role, file.path) for file in order.files] == [
        ("train", "/train.jsonl"),
        ("validation", "/validation.jsonl"),
    ]
    assert (order.max_length, order.loss_on, order.must_match_template) == (0, "assistant", "")
    assert draft.target_modules == ("model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj")
    assert list(draft.template.stop_token_ids) == [3, 7]
    unmarked = draft_train(train_spec(), base_facts(chat_template="plain"), FAMILY)
    assert unmarked.audit_order.must_match_template == "plain"
    assert unmarked.template.source == "family:tiny"
    assert draft_train(train_spec(adapter=False), base_facts(), FAMILY).target_modules == ()


def test_every_default_is_filled_in_and_has_a_reason() -> None:
    resolution = resolve(train_spec())
    train = resolution.spec.spec.train
    lora, optim = train.adapter.lora, train.optim
    assert (lora.rank, lora.alpha, list(lora.targets), lora.dropout) == (16, 16.0, ["all-linear"], 0.05)
    assert (optim.learning_rate, optim.epochs, optim.batch_size, optim.micro_batch_size) == (2e-4, 3.0, 16, 8)
    assert (optim.schedule, optim.max_grad_norm, optim.weight_decay) == ("cosine", 1.0, 0.0)
    assert optim.warmup_ratio == pytest.approx(5 / 60, abs=1e-4)
    assert (train.max_length, train.over_long, train.seed, train.dtype) == (192, "error", 42, "float32")
    assert (train.checkpoint.every_steps, train.checkpoint.keep, train.loss_on) == (200, 3, "assistant")
    assert train.method.WhichOneof("method") == "sft"
    assert (resolution.spec.spec.backend, resolution.spec.spec.resources.devices) == ("trl", 1)
    assert resolution.spec.spec.max_attempts == 3
    values = reasons(resolution)
    assert values["train.adapter.lora.alpha"] == ("16", "equal to the rank: scale 1 at every rank")
    assert values["train.optim.learning_rate"][0] == "0.0002"
    assert values["train.optim.micro_batch_size"][1].startswith(
        "fits most devices for a base of 0.00112M par"
    )
    assert values["train.adapter.lora.targets"][0] == "[all-linear]"
    assert values["train.max_length"][1] == (
        "the 95th percentile of the rows, 150 tokens, rounded up to a multiple of 64"
    )
    assert values["train.base.revision"] == ("c" * 40, "the commit that 'main' was when this was resolved")
    assert all(reason for _, reason in values.values())
    assert len(values) == len(resolution.spec.values)


def test_what_was_given_is_kept_and_not_listed() -> None:
    spec = train_spec()
    spec.train.adapter.lora.rank = 4
    spec.train.adapter.lora.dropout = 0.0
    spec.train.optim.warmup_ratio = 0.0
    spec.train.seed = 0
    spec.train.dtype = "bfloat16"
    spec.backend = "trl"
    resolution = resolve(spec)
    train = resolution.spec.spec.train
    assert (train.adapter.lora.alpha, train.adapter.lora.dropout, train.seed) == (4.0, 0.0, 0)
    assert (train.optim.warmup_ratio, train.dtype) == (0.0, "bfloat16")
    given = {"train.adapter.lora.rank", "train.adapter.lora.dropout", "train.seed", "train.dtype", "backend"}
    assert given.isdisjoint(reasons(resolution))
    assert spec.train.optim.epochs == 0.0, "the spec that was asked for must stay as it was"


@pytest.mark.parametrize(
    ("field", "facts", "spec", "device", "expected"),
    [
        ("train.optim.learning_rate", base_facts(parameter_count=30 * 10**9), train_spec(), "cpu", "0.0001"),
        ("train.optim.learning_rate", base_facts(), train_spec(adapter=False), "cpu", "1e-05"),
        ("train.optim.epochs", base_facts(), train_spec(validation=False), "cpu", "2"),
        ("train.optim.micro_batch_size", base_facts(parameter_count=10**9), train_spec(), "cpu", "4"),
        ("train.optim.micro_batch_size", base_facts(parameter_count=10**10), train_spec(), "cpu", "2"),
        ("train.dtype", base_facts(), train_spec(), "cuda", "bfloat16"),
        ("train.dtype", base_facts(), train_spec(), "metal", "bfloat16"),
        ("train.dtype", base_facts(), train_spec(), "abacus", "float32"),
        ("train.max_length", base_facts(max_positions=100), train_spec(), "cpu", "100"),
    ],
)  # fmt: skip
def test_a_default_follows_the_base_and_the_device(
    field: str, facts: BaseFacts, spec: JobSpec, device: str, expected: str
) -> None:
    found = mask(length_percentiles=[50, 90, 100])
    assert reasons(resolve(spec, found, facts=facts, backend=chosen(device)))[field][0] == expected


def test_the_only_device_kind_of_a_backend_decides_the_number_type() -> None:
    assert ChosenBackend(manifest=manifest(device_kinds=["cuda"])).device == "cuda"
    assert ChosenBackend(manifest=manifest()).device == "cpu"


def test_the_micro_batch_divides_the_batch() -> None:
    spec = train_spec()
    spec.train.optim.batch_size = 6
    assert resolve(spec).spec.spec.train.optim.micro_batch_size == 6
    spec.train.optim.batch_size = 7
    assert resolve(spec).spec.spec.train.optim.micro_batch_size == 7
    spec.train.optim.batch_size = 11
    assert resolve(spec).spec.spec.train.optim.micro_batch_size == 1


def test_a_familys_default_wins_over_the_common_one_but_not_over_the_person() -> None:
    family = dataclasses.replace(
        FAMILY, defaults={"train.optim.learning_rate": (5e-5, "this family diverges above")}
    )
    values = reasons(resolve(train_spec(), family=family))
    assert values["train.optim.learning_rate"] == ("5e-05", "this family diverges above")
    spec = train_spec()
    spec.train.optim.learning_rate = 1e-4
    assert resolve(spec, family=family).spec.spec.train.optim.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("rows", "epochs", "max_steps", "steps", "ratio"),
    [
        (320, 3.0, 0, 60, 0.0834),
        (321, 3.0, 0, 63, 0.0794),
        (10, 1.0, 0, 1, 0.1),
        (160, 3.0, 0, 30, 0.1),
        (320, 0.5, 0, 10, 0.1),
        (16000, 1.0, 0, 1000, 0.03),
        (320, 3.0, 7, 7, 0.1),
    ],
)
def test_steps_and_warm_up(rows: int, epochs: float, max_steps: int, steps: int, ratio: float) -> None:
    spec = train_spec()
    spec.train.optim.epochs = epochs
    spec.train.optim.max_steps = max_steps
    resolution = resolve(spec, mask(rows=rows))
    assert resolution.spec.estimate.total_steps == steps
    assert resolution.spec.spec.train.optim.warmup_ratio == pytest.approx(ratio)


def test_packing_needs_fewer_steps() -> None:
    spec = train_spec()
    spec.train.method.sft.packing = True
    packs = chosen(choices={"train.method.sft.packing": ["true"]})
    rough = resolve(spec, backend=packs)
    assert rough.spec.estimate.packed_sequences == 167, "without the lengths: 32000 tokens, 192 each"
    assert rough.spec.estimate.total_steps == 3 * 11
    lengths = [LengthCount(tokens=90, rows=160), LengthCount(tokens=110, rows=160)]
    exact = resolve(spec, mask(lengths=lengths), backend=packs)
    assert exact.spec.estimate.packed_sequences == 240, "110 leaves room for no other row, 90 for one more"
    assert exact.spec.estimate.total_steps == 3 * 15
    assert "320 rows are packed into 240 sequences of up to 192 tokens, 1.3 rows each" in texts(exact)


def test_packing_is_refused_where_rows_would_see_each_other() -> None:
    spec = train_spec()
    spec.train.method.sft.packing = True
    recurrent = base_facts(config_json='{"layer_types": ["linear_attention", "full_attention"]}')
    packs = chosen(choices={"train.method.sft.packing": ["true"]})
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=recurrent, backend=packs))
    assert "linear_attention" in error.message
    assert error.metadata["field"] == "train.method.sft.packing"


def test_the_estimate_counts_weights_optimiser_and_activations() -> None:
    estimate = resolve(train_spec()).spec.estimate
    adapter = 16 * (8 + 8) + 16 * (32 + 8)
    rows, tokens = 8, 192
    assert estimate.trainable_parameters == adapter
    assert estimate.weights_bytes == 1120 * 4
    assert estimate.optimizer_bytes == adapter * 16
    # In float32, a layer by itself: norms, MLP of 4 * 8, attention of 8, its mask, an adapter's two inputs.
    layer = 2 * 4 * 8 + 4 * (3 * 32 + 4 * 8) + 4 * tokens + (8 + 8) * (4 + 4) // 2
    # Checkpointed: the inputs of both layers, what stands around them, one layer again (the head takes less).
    assert estimate.activation_bytes == rows * tokens * (2 * 4 * 8 + 3 * 4 * 8 + layer)
    assert estimate.peak_bytes == (
        estimate.weights_bytes + estimate.optimizer_bytes + estimate.activation_bytes
    )
    full = resolve(train_spec(adapter=False)).spec.estimate
    assert (full.trainable_parameters, full.optimizer_bytes) == (1120, 1120 * 12)
    half = resolve(train_spec(adapter=False), backend=chosen("cuda")).spec.estimate
    assert (half.weights_bytes, half.optimizer_bytes) == (1120 * 2, 1120 * 16)
    quantised = train_spec()
    quantised.train.quantization = "nf4"
    assert resolve(quantised).spec.estimate.weights_bytes == 166 + 800 * 4  # 320 numbers at 4.127 bits


@pytest.mark.parametrize("config", ["", "[]", '{"text_config": {"hidden_size": "x"}}'])
def test_a_config_that_says_nothing_leaves_the_activations_out(config: str) -> None:
    assert resolve(train_spec(), facts=base_facts(config_json=config)).spec.estimate.activation_bytes == 0


def test_the_resolved_spec_names_files_backend_and_audit() -> None:
    first, second = mask(references=[ReferenceTokens(prompt_token_ids=[1])]), mask(rows=5)
    spec = train_spec()
    spec.train.data.train.add(source="/more.jsonl", weight=0.5)
    resolved = resolve(spec, first, mask(rows=80, length_percentiles=[10, 200, 300]), second).spec
    assert [(item.role, item.path, item.rows, item.weight) for item in resolved.data] == [
        ("train", "/train.jsonl", 320, 1.0),
        ("train", "/more.jsonl", 80, 0.5),
        ("validation", "/validation.jsonl", 5, 1.0),
    ]
    assert [item.sha256[0] for item in resolved.data] == ["0", "1", "2"]
    assert (resolved.mask_audit.rows, resolved.mask_audit.trained_tokens) == (400, 18000)
    assert list(resolved.mask_audit.length_percentiles) == [90, 200, 300]
    assert len(resolved.mask_audit.references) == 1
    assert len(resolved.mask_audit.first_rows) == 2
    assert (resolved.backend.name, resolved.backend.plugin) == ("trl", "tunefleet-absent")
    assert resolved.backend.environment_digest == "e" * 8
    assert resolved.base.model == "org/tiny"
    assert resolved.chat_template.text == MARKED
    assert len(resolved.target_modules) == 2


def test_an_evaluation_is_resolved_with_its_adapter_and_its_template() -> None:
    spec = evaluate_spec()
    spec.evaluate.examples = "/examples.jsonl"
    trained = ChatTemplate(text="trained with this", stop_token_ids=[9])
    adapter = ResolvedAdapter(model="projects/default/models/a", manifest_digest="d")
    draft = draft_evaluate(spec, base_facts(), FAMILY, template=trained, adapter=adapter)
    assert [file.role for file in draft.audit_order.files] == ["evaluate", "examples"]
    assert draft.audit_order.must_match_template == ""
    resolved = finish_evaluate(draft, audit_of(draft), chosen()).spec
    evaluate = resolved.spec.evaluate
    assert (evaluate.example_count, evaluate.max_new_tokens, evaluate.batch_size) == (3, 128, 32)
    assert list(evaluate.metrics) == ["exact_match", "json_valid", "f1"]
    assert evaluate.model.revision == "", "an adapter of the store has no Hub revision"
    assert (resolved.adapter, resolved.chat_template) == (adapter, trained)
    assert (resolved.estimate.total_steps, resolved.estimate.weights_bytes) == (320, 2240)
    assert [item.role for item in resolved.data] == ["evaluate", "examples"]


def test_a_base_is_evaluated_at_its_commit_with_its_own_template() -> None:
    draft = draft_evaluate(evaluate_spec(), base_facts(), FAMILY)
    resolved = finish_evaluate(draft, audit_of(draft), chosen()).spec
    assert resolved.spec.evaluate.model.revision == "c" * 40
    assert resolved.chat_template.source == "base"
    assert not resolved.HasField("adapter")
    assert not resolved.spec.evaluate.HasField("example_count")


def test_a_backend_that_cannot_inspect_gets_the_defaults_alone() -> None:
    spec = train_spec()
    spec.train.optim.max_steps = 20
    resolution = resolve_plain(spec, chosen(options_schema=None))
    resolved = resolution.spec
    assert resolved.spec.train.adapter.lora.rank == 16
    assert resolved.spec.train.optim.micro_batch_size == 2
    assert resolved.spec.train.optim.warmup_ratio == 0.1
    assert (resolved.estimate.total_steps, resolved.base.path) == (20, "")
    assert [(item.role, item.path) for item in resolved.data] == [
        ("train", "/train.jsonl"),
        ("validation", "/validation.jsonl"),
    ]
    assert resolve_plain(evaluate_spec(), chosen()).spec.spec.evaluate.batch_size == 32


def test_the_digest_follows_the_content_and_nothing_else() -> None:
    spec = train_spec()
    for index in range(20):
        spec.labels[f"l{index}"] = "x"
    reordered = train_spec()
    for index in reversed(range(20)):
        reordered.labels[f"l{index}"] = "x"
    one, other = resolve(spec), resolve(reordered)
    assert one.digest == other.digest == digest_of(one.spec)
    assert len(one.digest) == 64
    changed = ResolvedSpec()
    changed.CopyFrom(one.spec)
    changed.chat_template.stop_token_ids.append(1)
    assert digest_of(changed) != one.digest


def test_resolving_what_was_resolved_changes_nothing() -> None:
    once = resolve(train_spec()).spec.spec
    again = resolve(once)
    assert again.spec.spec == once
    assert list(again.spec.values) == []
