"""From a spec to what runs: ask the fleet about files, then resolve purely.

The order is that of `tunefleet_core.resolve`: facts of the base, draft, audit of the
rows, finish. Facts and audit are asked of the very service kind that will run the
job, because that is where the files and the tokenizer are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.inspect_pb2 import AuditResult
from tunefleet.dataset.v1.audit_pb2 import MaskAudit
from tunefleet.fleet.v1.fleet_pb2 import AuditQuestion, BaseQuestion, Service, ServiceKind
from tunefleet.job.v1.resolved_pb2 import ChatTemplate, CompanionModel, ResolvedAdapter, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import BaseModel, JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator.exporters import find_exporter
from tunefleet_coordinator.holds import Holds
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.located import DatasetLocator
from tunefleet_coordinator.nobody import no_service, unknown_engine
from tunefleet_coordinator.places import Place, choose_place
from tunefleet_coordinator.trackers import require_trackers
from tunefleet_coordinator.trained_model import TrainedModel, is_of_fleet
from tunefleet_core.backend import device_distance, has_capability
from tunefleet_core.catalog import EngineParsers, Family, FamilyRegistry, FormatRegistry
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import ServiceRow, World
from tunefleet_core.resolve import (
    Draft,
    FormatExport,
    Resolution,
    WantedCompanion,
    check_backend,
    combine_masks,
    companions_of,
    draft_evaluate,
    draft_train,
    engines_that_load,
    files_of,
    finish_evaluate,
    finish_train,
    resolve_export,
    resolve_format_export,
    resolve_plain,
)
from tunefleet_core.spec import validate_spec

__all__ = ["CheckedRows", "Resolver", "RowQuestion"]

_ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuestion:
    """Which rows to read, and as what."""

    source: str
    """A file on the trainer's host, or `datasets/<name>`."""
    base: BaseModel
    max_length: int = 0
    loss_on: str = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRows:
    """What was found of rows, and the template they were rendered with."""

    mask: MaskAudit
    template: ChatTemplate


class Resolver:
    """Resolves specs against the fleet as it stands."""

    def __init__(
        self,
        kernel: Kernel,
        broker: InspectionBroker,
        families: FamilyRegistry,
        *,
        datasets: DatasetLocator,
        holds: Holds,
        formats: FormatRegistry | None = None,
    ) -> None:
        self._kernel = kernel
        self._broker = broker
        self._families = families
        self._formats = formats or FormatRegistry()
        self._datasets = datasets
        self._holds = holds
        self._known: tuple[int, Sequence[Service]] = (-1, ())  # the attached services, as of a generation

    async def resolve(self, project: str, spec: JobSpec) -> Resolution:
        """Return what would run.

        Raises:
            TunefleetError: what is wrong with the spec, its files, its base, or the fleet.
        """
        validate_spec(spec)
        located = await self._datasets.locate(project, spec)
        return located.restore(await self._resolve(project, located.spec))

    async def check_rows(self, project: str, question: RowQuestion) -> CheckedRows:
        """Return what training on some rows with a base would see, without a job.

        Raises:
            TunefleetError: DATA_INVALID, BASE_INVALID, DATASET_NOT_FOUND, BACKEND_NOT_INSTALLED.
        """
        spec = JobSpec()
        spec.train.base.CopyFrom(question.base)
        spec.train.method.sft.SetInParent()
        dataset = await self._datasets.find(project, question.source)
        path = question.source if dataset is None else self._datasets.path_of(dataset)
        spec.train.data.train.add(source=path)
        spec.train.max_length = question.max_length
        spec.train.loss_on = question.loss_on
        place = choose_place(spec, self._attached())
        facts = await self._facts(place.service, _question(question.base))
        draft = draft_train(spec, facts, self._family(facts), frozen_time_seconds=int(time.time()))
        audit = await self._audit(place, draft)
        mask = combine_masks(files_of(draft.audit_order, audit, "train"))
        return CheckedRows(mask=mask, template=draft.template)

    async def _resolve(self, project: str, spec: JobSpec) -> Resolution:
        if spec.WhichOneof("work") == "export":
            return await self._export(project, spec)
        place = choose_place(spec, self._attached())
        check_backend(spec, place.backend.manifest)
        require_trackers(spec, self._attached(), backend=place.backend.manifest.name)
        if spec.WhichOneof("work") == "evaluate":
            return await self._evaluate(project, spec, place)
        return await self._train(project, spec, place)

    async def base_facts(self, question: BaseQuestion) -> BaseFacts:
        """Return the facts of a base, asked of any server, else of any trainer."""
        services = self._attached()
        for kind in (ServiceKind.SERVICE_KIND_SERVER, ServiceKind.SERVICE_KIND_TRAINER):
            for service in services:
                if service.kind == kind:
                    return await self._facts(service.name, question)
        raise no_service("server")

    async def engine_for(
        self, asked: str, trained_with: str, *, stored_as: str = "", facts: BaseFacts | None = None
    ) -> BackendManifest:
        """Return the engine of a deployment: the one asked for, else the best the fleet has.

        A backend serves what it trained itself if it can; otherwise only an engine that can
        be checked against the training is taken without being named, the one that names the
        devices of its host earliest: what an engine is made for comes first in its manifest.

        Args:
            asked: The engine that was asked for; empty: any.
            trained_with: The backend that trained the model.
            stored_as: Quantisation format of the checkpoint that the engine loads; empty: none.
            facts: That checkpoint; None: not read yet.

        Raises:
            TunefleetError: BACKEND_NOT_INSTALLED; CAPABILITY_UNSUPPORTED if it does not load the format.
        """
        served = [
            (
                device_distance(installed.manifest, {device.kind for device in service.host.devices}),
                installed.manifest,
            )
            for service in self._attached()
            if service.kind == ServiceKind.SERVICE_KIND_SERVER
            for installed in service.backends
            if installed.status == _ACTIVE and has_capability(installed.manifest, Capability.CAPABILITY_SERVE)
        ]
        usable = [manifest for _, manifest in sorted(served, key=lambda item: item[0])]
        if stored_as:
            usable = engines_that_load(stored_as, usable, asked, facts=facts)
        if asked:
            found = [manifest for manifest in usable if manifest.name == asked]
        else:
            found = [manifest for manifest in usable if manifest.name == trained_with] or [
                manifest
                for manifest in usable
                if has_capability(manifest, Capability.CAPABILITY_CONTRACT_CHECK)
            ]
        if not found:
            raise unknown_engine(asked, [manifest.name for manifest in usable])
        return found[0]

    def parsers_of(self, engine: str, facts: BaseFacts, template: ChatTemplate | None) -> EngineParsers:
        """Return what an engine calls the parsers of a base's family, in the chat form that was trained.

        Thoughts are looked for only where every answer has some: vLLM's parser takes an answer
        without any for one that is all thought, and leaves nothing to say.
        """
        form = template.source.partition("/")[2] if template is not None else ""
        if facts.model_type not in self._families.model_types():
            return EngineParsers()
        family = self._family(facts)
        parsers = family.parsers_of(engine, variant=form)
        own = next((item.thinking for item in family.variants if item.name == form), None)
        return parsers if (own or family.thinking) == "always" else replace(parsers, reasoning="")

    async def trained_model(self, project: str, reference: str) -> TrainedModel:
        """Return a model by `models/<name>` or full name.

        Raises:
            TunefleetError: MODEL_NOT_FOUND.
        """
        name = reference if reference.startswith("projects/") else f"projects/{project}/{reference}"
        async with self._holds.taking(name) as take:
            row = await self._kernel.read(self._kernel.store.get_model, name)
            if row is not None:
                take(row.manifest_digest)
        job = await self._kernel.read(self._kernel.store.get_job, row.job) if row is not None else None
        spec = await self._kernel.read(self._kernel.store.get_spec, job.uid) if job is not None else None
        if row is None or spec is None:
            raise TunefleetError(
                Reason.MODEL_NOT_FOUND,
                f"No model '{reference}'.",
                hint="tunefleet models list",
                metadata={"model": reference},
            )
        return TrainedModel(row=row, resolved=ResolvedSpec.FromString(spec.resolved_spec))

    async def _train(self, project: str, spec: JobSpec, place: Place) -> Resolution:
        base = spec.train.base
        question = _question(base)
        if is_of_fleet(base.model):
            trained = await self.trained_model(project, base.model)
            trained.require_writer("train.base.model")
            if not trained.is_whole:
                raise TunefleetError.field(
                    "train.base.model",
                    f"'{base.model}' is an adapter, and an adapter is not a base",
                    hint="Merge it first, by a job with export: {model: {model: "
                    f"{base.model}}}, merge: {{}}}}, and name the model that it makes.",
                )
            question = trained.question
        if not has_capability(place.backend.manifest, Capability.CAPABILITY_INSPECT):
            return resolve_plain(spec, place.backend)
        facts = await self._facts(place.service, question)
        draft = draft_train(
            spec,
            facts,
            self._family(facts),
            frozen_time_seconds=int(time.time()),
            companions=[
                await self._companion(project, place, wanted) for wanted in companions_of(spec.train)
            ],
        )
        return finish_train(draft, await self._audit(place, draft), place.backend, self._formats)

    async def _companion(self, project: str, place: Place, wanted: WantedCompanion) -> CompanionModel:
        """Return a model that is read beside the base, as the service that will run the job finds it."""
        if not is_of_fleet(wanted.model):
            facts = await self._facts(
                place.service, BaseQuestion(model=wanted.model, revision=wanted.revision)
            )
            return CompanionModel(field=wanted.field, base=facts)
        trained = await self.trained_model(project, wanted.model)
        trained.require_kind(wanted)
        facts = await self._facts(place.service, trained.question)
        trained.require_base(facts, verb="used")
        return CompanionModel(
            field=wanted.field,
            base=facts,
            adapter=None if trained.is_whole else trained.adapter,
            template_sha256=trained.resolved.chat_template.sha256,
        )

    async def _evaluate(self, project: str, spec: JobSpec, place: Place) -> Resolution:
        base = spec.evaluate.model
        question = _question(base)
        trained: TrainedModel | None = None
        template: ChatTemplate | None = None
        adapter: ResolvedAdapter | None = None
        if is_of_fleet(base.model):
            trained = await self.trained_model(project, base.model)
            trained.require_writer("evaluate.model.model")
            template = trained.resolved.chat_template
            question = trained.question
            if not trained.is_whole:
                adapter = trained.adapter
        if not has_capability(place.backend.manifest, Capability.CAPABILITY_INSPECT):
            return resolve_plain(spec, place.backend, adapter=adapter)
        facts = await self._facts(place.service, question)
        if trained is not None:
            trained.require_base(facts, verb="scored")
        draft = draft_evaluate(
            spec,
            facts,
            self._family(facts),
            template=template,
            adapter=adapter,
            frozen_time_seconds=int(time.time()),
        )
        return finish_evaluate(draft, await self._audit(place, draft), place.backend)

    async def _export(self, project: str, spec: JobSpec) -> Resolution:
        trained = await self.trained_model(project, spec.export.model.model)
        trained.require_writer("export.model.model")
        if spec.export.WhichOneof("form") == "quantize":
            return await self._quantize(spec, trained)
        if trained.is_whole:
            raise TunefleetError.field(
                "export.model.model",
                f"'{spec.export.model.model}' is a whole model already",
                hint=f"Deploy it: tunefleet deploy {spec.export.model.model}",
            )
        by = JobSpec()
        by.CopyFrom(spec)
        by.backend = spec.backend or trained.resolved.backend.name  # who wrote an adapter can read it
        place = choose_place(by, self._attached())
        facts, free = await self._facts_and_room(place.service, trained)
        return resolve_export(
            spec,
            trained.resolved,
            trained.adapter,
            facts=facts,
            backend=place.backend,
            disk_free_bytes=free,
        )

    async def _quantize(self, spec: JobSpec, trained: TrainedModel) -> Resolution:
        merged_by = "" if trained.is_whole else trained.resolved.backend.name
        exporter = find_exporter(
            spec,
            self._attached(),
            merged_by=merged_by,
            model_type=trained.resolved.base.model_type,
            known=self._formats.names(),
        )
        facts, free = await self._facts_and_room(exporter.service, trained)
        return resolve_format_export(
            spec,
            FormatExport(
                trained=trained.resolved,
                adapter=None if trained.is_whole else trained.adapter,
                facts=facts,
                quantization=self._formats.get(spec.export.quantize.format),
            ),
            backend=exporter.backend,
            merge_backend=exporter.merge_backend,
            disk_free_bytes=free,
        )

    async def _facts_and_room(self, service: str, trained: TrainedModel) -> tuple[BaseFacts, int]:
        """Return the facts of a model's weights and the free bytes beside them.

        They are empty where its backend does not look at bases.
        """
        if not trained.resolved.base.path:
            return BaseFacts(), 0
        answer = await self._broker.ask_base(service, trained.question)
        return answer.base, answer.disk_free_bytes

    def _family(self, facts: BaseFacts) -> Family:
        return self._families.for_model_type(facts.model_type)

    async def _facts(self, service: str, question: BaseQuestion) -> BaseFacts:
        return (await self._broker.ask_base(service, question)).base

    async def _audit(self, place: Place, draft: Draft) -> AuditResult:
        for file in draft.audit_order.files:
            file.sha256 = self._datasets.digest_of(file.path)
        question = AuditQuestion(backend=place.backend.manifest.name, order=draft.audit_order)
        return (await self._broker.ask_audit(place.service, question)).audit

    def _attached(self) -> Sequence[Service]:
        """Return the attached services as they describe themselves. Read only: the same for every call."""
        # Not `observe`: a submit is resolved while those before it are committed.
        generation, rows = self._kernel.glance(self._look)
        if rows is not None:
            self._known = generation, [Service.FromString(row.description) for row in rows]
        return self._known[1]

    def _look(self, world: World) -> tuple[int, list[ServiceRow] | None]:
        """Return the rows of attached services, or None if they are what is known already."""
        generation = world.attached_generation
        if generation == self._known[0]:
            return generation, None
        return generation, [row for row in world.services() if row.is_attached]


def _question(base: BaseModel) -> BaseQuestion:
    return BaseQuestion(model=base.model, revision=base.revision)
