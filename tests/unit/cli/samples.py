"""A fleet as it could be, for every view: jobs, a plan, models, services."""

from __future__ import annotations

from pathlib import Path

from deployment_samples import deployments
from google.protobuf import json_format
from sample_names import JOBS, ago

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Lineage, Manifest
from tunefleet.artifact.v1.artifact_service_pb2 import PruneArtifactsResponse, PrunedItem
from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.dataset.v1.audit_pb2 import MaskAudit, MaskedRow, MaskedSpan, PrefixBreak
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsResponse
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse, JoinToken, Token
from tunefleet.job.v1.diagnosis_pb2 import Diagnosis
from tunefleet.job.v1.event_pb2 import Metrics, Notice
from tunefleet.job.v1.job_pb2 import Job, JobResult
from tunefleet.job.v1.job_service_pb2 import PlanJobResponse
from tunefleet.job.v1.resolved_pb2 import (
    ChatTemplate,
    Estimate,
    ResolvedBackend,
    ResolvedData,
    ResolvedSpec,
    ResolvedValue,
)
from tunefleet.job.v1.spec_pb2 import (
    Adapter,
    BaseModel,
    DataSource,
    DataSpec,
    EvaluateSpec,
    JobSpec,
    LoraAdapter,
    Method,
    SftMethod,
    TrainSpec,
)
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState, Score
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.type.v1.device_pb2 import Device, Host
from tunefleet_cli.fleet_view import FleetLook

CAPABILITIES = [
    Capability.CAPABILITY_TRAIN,
    Capability.CAPABILITY_SFT,
    Capability.CAPABILITY_LORA,
    Capability.CAPABILITY_CHECKPOINT_RESUME,
    Capability.CAPABILITY_QLORA_NF4,
]


def train_spec() -> JobSpec:
    return JobSpec(
        name="tickets-to-json",
        train=TrainSpec(
            base=BaseModel(model="/models/Qwen3-0.6B"),
            data=DataSpec(train=[DataSource(source="/data/train.jsonl")], validation="/data/eval.jsonl"),
            method=Method(sft=SftMethod()),
            adapter=Adapter(lora=LoraAdapter()),
        ),
    )


def resolved_spec() -> ResolvedSpec:
    values = [
        ("train.optim.learning_rate", "2e-4", "LoRA on a base below 30 B parameters"),
        ("train.optim.epochs", "3", "validation rows are given, so the best checkpoint is kept"),
        ("train.optim.batch_size", "16", "the same on every number of devices"),
        ("train.adapter.lora.rank", "16", "default; ranks of vLLM's set are preferred"),
        ("train.adapter.lora.alpha", "16", "equal to the rank, so that the scale is 1 at every rank"),
        ("train.max_length", "192", "95th percentile of the rows (171) rounded up to 64"),
    ]
    audit = MaskAudit(
        rows=312,
        rows_without_loss=0,
        rows_over_long=4,
        tokens=45_120,
        trained_tokens=12_345,
        end_of_turn_trained=True,
        length_percentiles=[120, 171, 260],
        first_rows=[
            MaskedRow(
                line=1,
                spans=[
                    MaskedSpan(text="<|im_start|>user\nThe printer on floor 3 is jammed.<|im_end|>\n"),
                    MaskedSpan(text="<|im_start|>assistant\n"),
                    MaskedSpan(text='{"team": "facilities", "urgency": 2}<|im_end|>', is_trained=True),
                ],
            )
        ],
    )
    return ResolvedSpec(
        spec=train_spec(),
        values=[ResolvedValue(field=field, value=value, reason=why) for field, value, why in values],
        base=BaseFacts(model="/models/Qwen3-0.6B", parameter_count=596_049_920),
        chat_template=ChatTemplate(source="family:qwen3", family="qwen3"),
        target_modules=[f"model.layers.{index}.self_attn.q_proj" for index in range(28)],
        data=[
            ResolvedData(role="train", path="/data/train.jsonl", sha256="9f2c" * 16, rows=312),
            ResolvedData(role="validation", path="/data/eval.jsonl", sha256="17ab" * 16, rows=50),
        ],
        mask_audit=audit,
        backend=ResolvedBackend(name="trl", plugin="tunefleet-trl==0.1.0", environment_digest="ab" * 16),
        estimate=Estimate(
            weights_bytes=1_192_099_840,
            optimizer_bytes=121_110_528,
            activation_bytes=356_515_840,
            peak_bytes=1_669_726_208,
            trainable_parameters=10_092_544,
            total_steps=60,
        ),
    )


def plan() -> PlanJobResponse:
    return PlanJobResponse(
        resolved_spec=resolved_spec(),
        resolved_spec_digest="c0ffee" * 10 + "abcd",
        notices=[
            Notice(severity="warning", text="4 of 312 rows are longer than 192 tokens and are dropped."),
            Notice(severity="info", text="No test rows are named.", hint="Name train.data.test."),
            Notice(
                severity="warning",
                text="The learning rate 0.002 is high for an adapter; above 0.001 training often diverges.",
                hint="Leave train.optim.learning_rate out for the default.",
                field="train.optim.learning_rate",
                value="0.002",
                usual="1e-4 to 2e-4",
                source="Dettmers et al. 2023, arXiv:2305.14314",
            ),
        ],
    )


def uninspected_plan() -> PlanJobResponse:
    """A plan by a backend that reads no model and audits no row."""
    data = [ResolvedData(role="train", path="/data/train.jsonl")]
    backend = ResolvedBackend(name="echo", plugin="tunefleet-echo==0.1.0")
    return PlanJobResponse(resolved_spec=ResolvedSpec(spec=train_spec(), data=data, backend=backend))


def jobs() -> list[Job]:
    running = Job(
        name=f"{JOBS}/tickets-to-json-ab12",
        uid="u-1",
        spec=train_spec(),
        state=JobState.JOB_STATE_RUNNING,
        progress=Metrics(step=24, total_steps=60, loss=0.8312),
        attempt=1,
        service="services/laptop-trainer",
        create_time=ago(200),
        start_time=ago(190),
    )
    running.spec.backend = "trl"
    done = Job(
        name=f"{JOBS}/tickets-to-json-9c3e",
        uid="u-2",
        spec=train_spec(),
        resolved_spec=resolved_spec(),
        resolved_spec_digest="c0ffee" * 10 + "abcd",
        state=JobState.JOB_STATE_SUCCEEDED,
        progress=Metrics(step=60, total_steps=60, loss=0.1204, peak_memory_bytes=1_610_612_736),
        attempt=2,
        service="services/laptop-trainer",
        checkpoint=CheckpointRef(step=60, attempt=2),
        result=JobResult(model="projects/default/models/tickets-to-json-9c3e"),
        create_time=ago(7_200),
        start_time=ago(7_190),
        end_time=ago(7_057),
        creator="admin",
    )
    scored = Job(
        name=f"{JOBS}/eval-tickets-77aa",
        uid="u-3",
        spec=JobSpec(
            name="eval-tickets",
            evaluate=EvaluateSpec(model=BaseModel(model="models/tickets"), data="/data/test.jsonl"),
        ),
        state=JobState.JOB_STATE_SUCCEEDED,
        progress=Metrics(step=100, total_steps=100),
        attempt=1,
        result=JobResult(scores=scores()),
        create_time=ago(90_000),
        creator="admin",
    )
    failed = Job(
        name=f"{JOBS}/a-job-with-a-really-long-name-that-does-not-fit-anywhere-01ff",
        uid="u-4",
        spec=train_spec(),
        state=JobState.JOB_STATE_FAILED,
        attempt=3,
        create_time=ago(400_000),
    )
    failed.error.message = "The process ran out of memory."
    return [running, done, scored, failed]


def scores() -> list[Score]:
    return [
        Score(metric="exact_match", value=0.87, low=0.79, high=0.92, rows=100),
        Score(metric="json_valid", value=1.0, low=0.963, high=1.0, rows=100),
        Score(metric="f1", value=0.941, low=0.905, high=0.972, rows=100),
    ]


def models() -> list[Model]:
    manifest = Manifest(
        digest="d1" * 32,
        kind=ArtifactKind.ARTIFACT_KIND_ADAPTER,
        step=60,
        files=[
            File(path="adapter_config.json", size_bytes=912, sha256="aa" * 32),
            File(path="adapter_model.safetensors", size_bytes=40_422_208, sha256="bb" * 32),
        ],
        lineage=Lineage(
            job=f"{JOBS}/tickets-to-json-9c3e",
            attempt=2,
            hardware="laptop: cpu",
            plugins=["tunefleet-trl==0.1.0"],
            template_digest="ee" * 32,
            dataset_digests=["9f2c" * 16],
        ),
    )
    return [
        Model(
            name="projects/default/models/tickets-to-json-9c3e",
            uid="m-1",
            manifest=manifest,
            base_model="/models/Qwen3-0.6B",
            job=f"{JOBS}/tickets-to-json-9c3e",
            create_time=ago(7_060),
            kind="adapter",
        )
    ]


def services() -> list[Service]:
    host = Host(
        id="h1",
        hostname="laptop",
        devices=[Device(id="cpu-0", kind="cpu", memory_bytes=25_769_803_776)],
    )
    return [
        Service(
            name="services/laptop-trainer",
            kind=ServiceKind.SERVICE_KIND_TRAINER,
            state=ServiceState.SERVICE_STATE_ATTACHED,
            host=host,
            backends=[
                InstalledBackend(manifest=BackendManifest(name="trl"), status="ACTIVE"),
                InstalledBackend(manifest=BackendManifest(name="mlx"), status="FAILED"),
            ],
            holds=[f"{JOBS}/tickets-to-json-ab12"],
            last_heard_time=ago(1),
        ),
        Service(
            name="services/laptop-server",
            kind=ServiceKind.SERVICE_KIND_SERVER,
            state=ServiceState.SERVICE_STATE_SUSPECT,
            host=host,
            last_heard_time=ago(9),
        ),
    ]


def datasets() -> list[Dataset]:
    return [
        Dataset(
            name="projects/default/datasets/tickets",
            sha256="9f2c" * 16,
            size_bytes=123_456,
            rows=312,
            format="messages",
            labels={"site": "office"},
            create_time=ago(4_000),
            creator="admin",
        )
    ]


def tokens() -> list[Token]:
    ci = Token(name="tokens/ci", role="viewer", project="default", create_time=ago(90_000), creator="admin")
    ci.expire_time.CopyFrom(ago(-7_300))
    return [Token(name="tokens/ada", role="admin", create_time=ago(600), creator="admin"), ci]


def join_tokens() -> list[JoinToken]:
    bound = JoinToken(
        name="joinTokens/trainer-ab12",
        kind=ServiceKind.SERVICE_KIND_TRAINER,
        service="services/gpu1-trainer",
        uses_left=1,
        create_time=ago(60),
        creator="admin",
    )
    bound.expire_time.CopyFrom(ago(-840))
    for_many = JoinToken(
        name="joinTokens/rack-4",
        kind=ServiceKind.SERVICE_KIND_SERVER,
        uses_left=12,
        create_time=ago(3_600),
        creator="ada",
    )
    for_many.expire_time.CopyFrom(ago(-82_800))
    return [bound, for_many]


def fleet() -> GetFleetResponse:
    return GetFleetResponse(
        version="0.1.0",
        contract_versions=[1],
        schema_version="0003",
        blob_address="127.0.0.1:7003",
        disk_free_bytes=60 << 30,
        disk_watermark_bytes=5 << 30,
        start_time=ago(7_400),
        principal="admin",
        role="admin",
    )


def prunable() -> PruneArtifactsResponse:
    items = [
        PrunedItem(kind="blob", name="aa" * 32, size_bytes=1 << 20, reason="no manifest names it"),
        PrunedItem(
            kind="checkpoint",
            name="projects/default/jobs/tickets-to-json-9c3e/checkpoints/40",
            size_bytes=1 << 30,
            reason="its job ended 2 days ago and a newer one is kept",
        ),
    ]
    return PruneArtifactsResponse(items=items, freed_bytes=(1 << 30) + (1 << 20))


def check() -> CheckRowsResponse:
    audit = resolved_spec().mask_audit
    audit.rows_without_loss = 3
    audit.end_of_turn_trained = False
    audit.prefix_breaks.append(
        PrefixBreak(
            line=17,
            turn=3,
            token_index=212,
            trained="<|im_start|>assistant\n<think>\n",
            served="<|im_start|>assistant\n",
        )
    )
    return CheckRowsResponse(audit=audit, template_source="base", family="qwen3")


def look() -> FleetLook:
    server = services()[1]
    served = deployments()
    served[1].service = server.name
    return FleetLook(
        services=tuple(services()),
        jobs=tuple(jobs()[:1]),
        deployments=tuple(served),
        devices={jobs()[0].name: ("cpu-0",)},
        requests={"tickets": 1_204},
        steps_per_second={jobs()[0].name: 0.812},
        requests_per_second={"tickets": 3.5},
        moment=0.0,
    )


def diagnosis(case: str = "over_fitting") -> Diagnosis:
    """Return the golden diagnosis of a case, as the core makes it."""
    path = Path(__file__).parents[2] / "golden" / "diagnosis" / f"{case}.json"
    return json_format.Parse(path.read_text(encoding="utf-8"), Diagnosis())
