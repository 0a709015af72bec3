"""Plan a recipe's jobs with the real resolver, from recorded bases, on stated devices."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.backend.v1.inspect_pb2 import AuditResult, FileAudit
from tunefleet.dataset.v1.audit_pb2 import MaskAudit
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.resolved_pb2 import CompanionModel, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts, Quantization, TensorFact
from tunefleet_core.catalog import FamilyRegistry, FormatRegistry
from tunefleet_core.plugins import load_plugins
from tunefleet_core.recipes import JobRecipe, PlannedRows
from tunefleet_core.resolve import ChosenBackend, companions_of, draft_train, finish_train
from tunefleet_core.spec import QUANTIZATIONS, parse_job_file

# They are not installed here, and their manifests import nothing heavy.
sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "mlx"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "trl"))
from tunefleet_mlx.plugin import tunefleet_backends as mlx_backends
from tunefleet_trl.plugin import tunefleet_backends as trl_backends

BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the jobs of a recipe are planned: a backend, with the devices that its pages state.

    Attributes:
        manifest: What the backend is, where every library that it can have is installed.
        device_kind: Kind of the devices.
        devices: Their names, with their memory in GiB as their drivers report it, rounded.
    """

    manifest: BackendManifest
    device_kind: str
    devices: Mapping[str, int]


def _whole(manifest: BackendManifest) -> BackendManifest:
    whole = BackendManifest()
    whole.CopyFrom(manifest)
    whole.trained_formats.extend(name for name in QUANTIZATIONS if name not in manifest.trained_formats)
    return whole


USUAL = "trl"
"""The backend of job files that name none."""
PLACES = {
    USUAL: Place(
        manifest=_whole(trl_backends()[0]),
        device_kind="cuda",
        devices={"RTX 4090, 24 GiB": 24, "A6000, 48 GiB": 48, "H100, 80 GiB": 80, "H200, 140 GiB": 140},
    ),
    "mlx": Place(
        manifest=mlx_backends()[0],
        device_kind="metal",
        devices={"M4, 16 GiB": 16, "M4 Pro, 24 GiB": 24, "M4 Pro, 48 GiB": 48, "M4 Max, 128 GiB": 128},
    ),
}
"""Backend to where the recipes that name it are planned. A recipe of another backend adds a place."""
BEGIN, END = "<!-- planned: begin -->", "<!-- planned: end -->"

_PLUGINS = load_plugins()
FAMILIES = FamilyRegistry(_PLUGINS.families())
FORMATS = FormatRegistry(_PLUGINS.formats())
_COMFORT = 0.85  # above it the defaults take NF4, where that is possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one job would take on one device, and what is said of it."""

    job: str
    device: str
    memory_bytes: int
    resolved: ResolvedSpec
    notices: Sequence[Notice]

    @property
    def share(self) -> float:
        """The planned peak as a share of the device."""
        return self.resolved.estimate.peak_bytes / self.memory_bytes

    @property
    def verdict(self) -> str:
        """Whether it fits."""
        return "fits" if self.share <= _COMFORT else "tight" if self.share <= 1 else "does not fit"


def backend_of(recipe: JobRecipe) -> str:
    """Return the backend that a recipe's jobs name, or the usual one."""
    (named,) = {parse_job_file(recipe.folder / job).backend for job in recipe.jobs}
    return named or USUAL


def place_of(recipe: JobRecipe) -> Place:
    """Return where a recipe is planned."""
    return PLACES[backend_of(recipe)]


def facts_of(model: str) -> BaseFacts:
    """Return what the resolver would read of a recorded base."""
    record = json.loads((BASES / f"{model.replace('/', '--')}.json").read_text())
    config = record["config"]
    family = FAMILIES.for_model_type(config["model_type"])
    tensors = [tensor for key, places in record["tensors"].items() for tensor in _tensors(key, places)]
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    assert parameters == record["parameters"], "the record was packed without loss"
    is_mxfp4 = config["model_type"] == "gpt_oss"  # published with its experts packed
    return BaseFacts(
        model=model,
        path=f"/models/{model}",
        model_type=config["model_type"],
        architectures=config["architectures"],
        config_json=json.dumps(config),
        tensors=sorted(tensors, key=lambda tensor: tensor.name),
        parameter_count=parameters,
        weights_bytes=2 * parameters,
        chat_template=family.chat_template,  # instruct models bring one
        eos_token_ids=[0],
        max_positions=config.get("text_config", config)["max_position_embeddings"],
        quantization=Quantization(format="mxfp4", carrier="mxfp4", bits_per_weight=4.25)
        if is_mxfp4
        else None,
    )


def plans_of(recipe: JobRecipe) -> Iterator[Plan]:
    """Yield a plan per training job and device."""
    place = place_of(recipe)
    for job, (device, gibibytes) in itertools.product(recipe.jobs, place.devices.items()):
        spec = parse_job_file(recipe.folder / job)
        if not spec.HasField("train"):
            continue
        spec.train.base.model = recipe.base  # of a later job: what an earlier one made of it
        memory = gibibytes * 2**30
        resolved, notices = _resolve(spec, facts_of(recipe.base), recipe.planned, place, memory)
        yield Plan(job=job, device=device, memory_bytes=memory, resolved=resolved, notices=notices)


def planned_section(recipe: JobRecipe) -> str:
    """Return the part of a page that is generated: a table of devices."""
    plans = list(plans_of(recipe))
    has_several = len({plan.job for plan in plans}) > 1
    first = plans[0].resolved
    micro = first.spec.train.optim.micro_batch_size
    lines = [
        f"Planned for {recipe.base} ({first.base.parameter_count / 1e9:.1f} billion parameters), rows of "
        f"{recipe.planned.tokens:,} tokens, {micro} at a time. GiB of "
        "weights, of the adapter with its optimiser, of activations, and at the peak:",
        "",
        f"| {'job | ' if has_several else ''}device | held in | weights | optim. | activ. | peak | |",
        f"|---|{'---|' if has_several else ''}---|---:|---:|---:|---:|---|",
    ]
    for plan in plans:
        estimate, train = plan.resolved.estimate, plan.resolved.spec.train
        cells = [
            *([plan.job] if has_several else []),
            plan.device,
            train.quantization or train.dtype,
            *map(_gib, (estimate.weights_bytes, estimate.optimizer_bytes, estimate.activation_bytes)),
            _gib(estimate.peak_bytes),
            plan.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join((BEGIN, *lines, END))


def smallest_device(recipe: JobRecipe) -> str:
    """Return the smallest device on which every job of a recipe fits, and how its base is held there."""
    plans = list(plans_of(recipe))
    for device in place_of(recipe).devices:
        here = [plan for plan in plans if plan.device == device]
        if all(plan.verdict == "fits" for plan in here):
            largest = max(here, key=lambda plan: plan.share)
            train = largest.resolved.spec.train
            peak = _gib(largest.resolved.estimate.peak_bytes)
            return f"{device}: {peak} GiB ({train.quantization or train.dtype})"
    return "none of these"


def _resolve(
    spec: JobSpec, facts: BaseFacts, rows: PlannedRows, place: Place, memory_bytes: int
) -> tuple[ResolvedSpec, Sequence[Notice]]:
    companions = [
        CompanionModel(field=wanted.field, base=facts_of(wanted.model))
        for wanted in companions_of(spec.train)
    ]
    family = FAMILIES.for_model_type(facts.model_type)
    draft = draft_train(spec, facts, family, companions=companions)
    mask = MaskAudit(
        rows=rows.count,
        tokens=rows.count * rows.tokens // 2,
        trained_tokens=rows.count * rows.tokens // 4,
        end_of_turn_trained=True,
        length_percentiles=[rows.tokens // 2, rows.tokens, rows.tokens],
    )
    files = [FileAudit(file=file, sha256="0" * 64, mask=mask) for file in draft.audit_order.files]
    backend = ChosenBackend(manifest=place.manifest, device_kind=place.device_kind, memory_bytes=memory_bytes)
    resolution = finish_train(draft, AuditResult(files=files), backend, FORMATS)
    return resolution.spec, resolution.notices


def _tensors(key: str, places: Sequence[str]) -> Iterator[TensorFact]:
    name, _, shape = key.partition("  ")
    for numbers in itertools.product(*(_numbers(place) for place in places)):
        left = iter(numbers)
        full = re.sub("#", lambda _, left=left: str(next(left)), name)
        yield TensorFact(name=full, shape=json.loads(shape), dtype="BF16")


def _numbers(place: str) -> Iterator[int]:
    for part in place.split():
        start, _, end = part.partition("-")
        yield from range(int(start), int(end or start) + 1)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"
