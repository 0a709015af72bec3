"""Questions to this host's files, asked while a job or a deployment is resolved."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

import grpc.aio

from tunefleet.backend.v1.inspect_pb2 import AuditResult
from tunefleet.fleet.v1.fleet_pb2 import AuditQuestion, BaseQuestion, Inspection, InspectionAnswer
from tunefleet.fleet.v1.fleet_service_pb2 import ReportInspectionRequest
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import FormatRegistry, read_base
from tunefleet_core.errors import Reason, TunefleetError, from_exception, status_from_error
from tunefleet_core.plugins import load_plugins
from tunefleet_core.rpc import error_from_rpc
from tunefleet_services.control.artifact_folders import ArtifactFolders
from tunefleet_services.control.connection import Connection

__all__ = ["Audit", "InspectionDesk", "no_audit"]

Audit: TypeAlias = Callable[[AuditQuestion], Awaitable[AuditResult]]


async def no_audit(question: AuditQuestion) -> AuditResult:
    """Answer for services that run no jobs, and so have no backend that reads rows."""
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"This service does not read rows with backend '{question.backend}'.",
        hint="Ask a trainer.",
        metadata={"backend": question.backend},
    )


class InspectionDesk:
    """Answers each question of the desired set once.

    Args:
        connection: Where the answers go.
        audit: Audits rows.
        group: Where questions are worked on.
        models: Lays out whole models of the artifact store, to look at them.
        disk: A folder on the disk that the service works on.
    """

    def __init__(
        self,
        connection: Connection,
        audit: Audit,
        group: asyncio.TaskGroup,
        *,
        models: ArtifactFolders,
        disk: Path,
    ) -> None:
        self._connection = connection
        self._audit = audit
        self._models = models
        self._disk = disk
        self._group = group
        self._open: set[str] = set()

    def desired(self, questions: list[Inspection]) -> None:
        """Start on new questions; forget those nobody waits for any more."""
        wanted = {question.id for question in questions}
        for question in questions:
            if question.id not in self._open:
                self._group.create_task(self._answer(question))
        self._open = wanted

    async def _answer(self, question: Inspection) -> None:
        answer = await self._find_out(question)
        answer.id = question.id
        request = ReportInspectionRequest(answer=answer)
        try:
            await self._connection.patiently(
                lambda seconds: self._connection.fleet.ReportInspection(
                    request, metadata=self._connection.metadata, timeout=seconds
                )
            )
        except TunefleetError:
            return  # the question was withdrawn

    async def _find_out(self, question: Inspection) -> InspectionAnswer:
        try:
            if question.WhichOneof("question") == "base":
                facts = await self._facts(question.base)
                return InspectionAnswer(base=facts, disk_free_bytes=await asyncio.to_thread(self._free))
            return InspectionAnswer(audit=await self._audit(question.audit))
        except grpc.aio.AioRpcError as error:
            return InspectionAnswer(error=status_from_error(error_from_rpc(error, "The contract host")))
        except Exception as error:  # whatever a file does to us is the asker's answer
            return InspectionAnswer(error=status_from_error(from_exception(error)))

    async def _facts(self, base: BaseQuestion) -> BaseFacts:
        if not base.manifest_digest:
            return await asyncio.to_thread(_read, base.model, model=base.model, revision=base.revision)
        folder = await self._models.fetch(base.manifest_digest)
        facts = await asyncio.to_thread(_read, folder, model=base.model)
        facts.manifest_digest = base.manifest_digest
        return facts

    def _free(self) -> int:
        self._disk.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._disk).free


def _read(source: Path | str, *, model: str, revision: str = "") -> BaseFacts:
    return read_base(source, model=model, revision=revision, formats=_installed_formats())


@cache
def _installed_formats() -> FormatRegistry:
    """Return the quantisation formats of this environment, loaded once.

    Without a guard that ends new processes: a service starts some of its own meanwhile.
    """
    return FormatRegistry(load_plugins().formats())
