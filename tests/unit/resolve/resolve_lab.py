"""Builders of specs, facts, audits and backends for the tests of resolving."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.inspect_pb2 import AuditResult, FileAudit
from tunefleet.dataset.v1.audit_pb2 import MaskAudit, MaskedRow, MaskedSpan
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts, SpecialToken, TensorFact
from tunefleet_core.backend import backend_manifest
from tunefleet_core.catalog import Family, FormatRegistry
from tunefleet_core.catalog.format import Format, Variant
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import ChosenBackend, Draft, Resolution, draft_train, finish_train

MARKED = "{% generation %}{{ messages }}{% endgeneration %}"
FAMILY = Family(
    name="tiny",
    model_types=("tiny",),
    chat_template=MARKED,
    template_origin="the test",
    stop_tokens=("<|im_end|>",),
    target_suffixes=("q_proj", "up_proj"),
)
FORMATS = FormatRegistry(
    [
        Format(name="nf4", summary="s", variants=(Variant(name="double", bits_per_weight=4.127),)),
        Format(
            name="mxfp4",
            summary="s",
            variants=(Variant(name="", bits_per_weight=4.25),),
            is_unpacked_to_train=True,
        ),
    ]
)
CONFIG = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 100}
SHAPES = {
    "model.embed_tokens.weight": [100, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.mlp.up_proj.weight": [32, 8],
}
TRAINERS = [
    Capability.CAPABILITY_TRAIN,
    Capability.CAPABILITY_SFT,
    Capability.CAPABILITY_LORA,
    Capability.CAPABILITY_FULL_FINE_TUNING,
    Capability.CAPABILITY_QLORA_NF4,
    Capability.CAPABILITY_RSLORA,
    Capability.CAPABILITY_DORA,
    Capability.CAPABILITY_MERGE,
    Capability.CAPABILITY_EVALUATE,
    Capability.CAPABILITY_INSPECT,
]
OPTIONS_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "steps": {"type": "integer", "minimum": 1},
        "names": {"type": "array", "items": {"type": "string"}},
    },
}


def base_facts(**changes: object) -> BaseFacts:
    facts = BaseFacts(
        model="org/tiny",
        path="/models/tiny",
        commit="c" * 40,
        model_type="tiny",
        config_json=json.dumps(CONFIG),
        tensors=[TensorFact(name=name, shape=shape, dtype="BF16") for name, shape in SHAPES.items()],
        parameter_count=1120,
        weights_bytes=2240,
        chat_template=MARKED,
        eos_token_ids=[3],
        max_positions=4096,
        special_tokens=[SpecialToken(id=7, text="<|im_end|>")],
    )
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


def manifest(**changes: object) -> BackendManifest:
    arguments: dict[str, object] = {
        "name": "trl",
        "distribution": "tunefleet-absent",
        "summary": "s",
        "capabilities": TRAINERS,
        "device_kinds": ["cpu", "cuda"],
        "options_schema": OPTIONS_SCHEMA,
    }
    return backend_manifest(**{**arguments, **changes})  # type: ignore[arg-type]


def chosen(device_kind: str = "cpu", **changes: object) -> ChosenBackend:
    return ChosenBackend(manifest=manifest(**changes), environment_digest="e" * 8, device_kind=device_kind)


def train_spec(*, adapter: bool = True, validation: bool = True) -> JobSpec:
    spec = JobSpec(name="x")
    spec.train.base.model = "org/tiny"
    spec.train.base.revision = "main"
    spec.train.data.train.add(source="/train.jsonl")
    if validation:
        spec.train.data.validation = "/validation.jsonl"
    if adapter:
        spec.train.adapter.lora.SetInParent()
    return spec


def evaluate_spec() -> JobSpec:
    spec = JobSpec(name="x")
    spec.evaluate.model.model = "models/a"
    spec.evaluate.data = "/test.jsonl"
    return spec


def mask(**changes: object) -> MaskAudit:
    values: dict[str, object] = {
        "rows": 320,
        "tokens": 32000,
        "trained_tokens": 9000,
        "end_of_turn_trained": True,
        "length_percentiles": [90, 150, 180],
        "first_rows": [
            MaskedRow(line=1, spans=[MaskedSpan(text="<user>Hi"), MaskedSpan(text="!", is_trained=True)])
        ],
        **changes,
    }
    return MaskAudit(**values)  # type: ignore[arg-type]


def audit_of(draft: Draft, *masks: MaskAudit, difference: str = "") -> AuditResult:
    result = AuditResult(template_difference=difference)
    for index, file in enumerate(draft.audit_order.files):
        found = masks[index] if index < len(masks) else mask()
        result.files.append(FileAudit(file=file, sha256=f"{index}" * 64, mask=found))
    return result


def resolve(
    spec: JobSpec,
    *masks: MaskAudit,
    facts: BaseFacts | None = None,
    family: Family = FAMILY,
    backend: ChosenBackend | None = None,
    difference: str = "",
) -> Resolution:
    draft = draft_train(spec, facts or base_facts(), family)
    return finish_train(draft, audit_of(draft, *masks, difference=difference), backend or chosen(), FORMATS)


def reasons(resolution: Resolution) -> dict[str, tuple[str, str]]:
    return {item.field: (item.value, item.reason) for item in resolution.spec.values}


def texts(resolution: Resolution) -> str:
    return "\n".join(notice.text for notice in resolution.notices)


def refusal(reason: Reason, call: Callable[[], object]) -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        call()
    assert caught.value.reason is reason
    assert caught.value.hint
    return caught.value
