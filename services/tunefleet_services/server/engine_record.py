"""What an engine is, and what is kept on disk about it, so that the server's next life can adopt it."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.artifacts import write_whole_file
from tunefleet_services.hosts import HostRecord

__all__ = ["EngineFolder", "EngineSpec", "find_engines"]

_RECORD = "engine.json"
_UNIQUE_DIGITS = 8
_SHOWN_DIGITS = 12
_PROCESSOR = ("cpu-0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What decides which deployments may share an engine.

    The base's digest covers shapes, not the values of its weights: two bases of one
    architecture have the same. So the folder belongs to the identity too.

    Attributes:
        engine: Unique name of the engine.
        backend: Backend that runs it.
        base_digest: Digest of the base, hex.
        base_path: Absolute folder of the base.
        max_context_tokens: Longest context; 0: the model's own.
        served_name: Name the base answers to.
        device_ids: Devices it may use; a processor is not booked but named all the same.
        manifest_digest: Manifest of the base, if that is a whole model of the artifact store; then
            `base_path` is known once its files are laid out here.
        base_model: What the base was called, a Hub id if `base_commit` is given.
        base_commit: Its Hub commit: what is not on this machine yet is fetched.
        settings: `tunefleet.type.v1.EngineSettings`, hex.
    """

    engine: str
    backend: str
    base_digest: str
    base_path: str
    max_context_tokens: int
    served_name: str
    device_ids: tuple[str, ...] = ()
    base_model: str = ""
    base_commit: str = ""
    manifest_digest: str = ""
    settings: str = ""

    @classmethod
    def of(cls, assignment: DeploymentAssignment) -> EngineSpec:
        """Return a new engine for a deployment."""
        base = assignment.base
        own_name = f"base@{base.base_digest[:_SHOWN_DIGITS]}"  # as the coordinator names it in a deployment
        return cls(
            engine=f"{assignment.engine}-{uuid.uuid4().hex[:_UNIQUE_DIGITS]}",
            backend=assignment.engine,
            base_digest=base.base_digest,
            base_path="" if base.manifest_digest else base.path,
            max_context_tokens=assignment.max_context_tokens,
            served_name=own_name if assignment.adapter_manifest_digest else assignment.engine_model,
            device_ids=tuple(assignment.device_ids) or _PROCESSOR,
            base_model=base.model,
            base_commit=base.commit,
            manifest_digest=base.manifest_digest,
            settings=_hex(assignment.engine_settings),
        )

    def suits(self, assignment: DeploymentAssignment) -> bool:
        """Return whether a deployment can be served by this engine."""
        same = (
            self.backend == assignment.engine
            and self.base_digest == assignment.base.base_digest
            and self.manifest_digest == assignment.base.manifest_digest
            and (bool(self.manifest_digest) or self.base_path == assignment.base.path)
            and self.max_context_tokens == assignment.max_context_tokens
            and self.device_ids == (tuple(assignment.device_ids) or _PROCESSOR)
            and self.settings == _hex(assignment.engine_settings)
        )
        # An adapter brings its own name; the base answers to the one it was started with.
        is_named = bool(assignment.adapter_manifest_digest) or self.served_name == assignment.engine_model
        return same and is_named

    def order(self, work_dir: Path, *, socket_dir: Path) -> EngineOrder:
        """Return the order that starts the engine."""
        settings = EngineSettings.FromString(bytes.fromhex(self.settings))
        return EngineOrder(
            settings=settings,
            chat_template=settings.chat_template,
            engine=self.engine,
            base_path=self.base_path,
            served_name=self.served_name,
            max_context_tokens=self.max_context_tokens,
            work_dir=str(work_dir),
            socket_dir=str(socket_dir),
            device_ids=self.device_ids,
            base_model=self.base_model,
            base_commit=self.base_commit,
        )


def _hex(settings: EngineSettings) -> str:
    return settings.SerializeToString(deterministic=True).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFolder:
    """The folder of one engine below the server's `engines/`: its record, its log, scratch."""

    path: Path

    def keep(self, spec: EngineSpec, host: HostRecord) -> None:
        """Keep which host runs the engine, before it is told to."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"spec": asdict(spec), "host": host.to_json()}
        write_whole_file(self.path / _RECORD, json.dumps(content).encode())

    def read(self) -> tuple[EngineSpec, HostRecord]:
        """Return what was kept."""
        content: dict[str, Any] = json.loads((self.path / _RECORD).read_text())
        spec: dict[str, Any] = content["spec"]
        spec["device_ids"] = tuple(spec["device_ids"])
        return EngineSpec(**spec), HostRecord(**content["host"])

    def forget_host(self) -> None:
        """Note that no process is left; the log stays."""
        (self.path / _RECORD).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything of the engine."""
        shutil.rmtree(self.path, ignore_errors=True)


def find_engines(engines: Path) -> list[EngineFolder]:
    """Return the engines that an earlier life of the server left with a host; remove other leftovers."""
    found: list[EngineFolder] = []
    for path in sorted(engines.glob("*")):
        folder = EngineFolder(path=path)
        if (path / _RECORD).is_file():
            found.append(folder)
        else:
            folder.remove()
    return found
