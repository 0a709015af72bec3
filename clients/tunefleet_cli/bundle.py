"""`tunefleet doctor --bundle FILE`: what a stranger needs in order to help, and no secret.

A tar of text files. Every byte goes through Redaction; rows, prompts, answers and
weights are never read.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from importlib.metadata import distributions
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import Message

from tunefleet.job.v1.job_pb2 import Job
from tunefleet_cli.checks import Place
from tunefleet_cli.findings import Finding
from tunefleet_cli.history import newest_events
from tunefleet_cli.redaction import Redaction, is_secret_name
from tunefleet_client import Client, TunefleetError, connect, short_name
from tunefleet_core.errors import Reason

__all__ = ["write_bundle"]

_LOG_TAIL_BYTES = 2 << 20
_JOBS = 20
_JOBS_WITH_EVENTS = 5
_EVENTS = 300
_EVENTS_SECONDS = 5.0
_OF_INTEREST = (
    "TUNEFLEET_",
    "HF_",
    "CUDA_",
    "NVIDIA_",
    "OMP_",
    "GRPC_",
    "PYTHON",
    "http",
    "HTTP",
    "no_proxy",
)
_OF_INTEREST_TOO = ("NO_PROXY", "ALL_PROXY", "LANG", "TERM", "NO_COLOR")


async def write_bundle(file: Path, place: Place, findings: Sequence[Finding]) -> list[str]:
    """Write the bundle and return the names of what is in it.

    Args:
        file: The tar to write, `.tar.gz` compressed; must not exist.
        place: Where this machine's commands go.
        findings: What the doctor found.

    Raises:
        TunefleetError: FIELD_INVALID if the file exists or cannot be written.
    """
    redaction = Redaction(place.folder, os.environ)
    parts = {
        "doctor.json": _json([finding.fields() for finding in findings]),
        "versions.json": _json(_versions()),
        "environment.json": _json(_environment()),
        **_local_files(place.folder),
        **await _fleet(place.given),
    }
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"{file} cannot be written: {error.strerror}.",
            hint="Name another file: tunefleet doctor --bundle FILE",
            metadata={"path": str(file)},
        ) from error
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, text in sorted(parts.items()):
            data = redaction.clean(text).encode()
            entry = tarfile.TarInfo(f"tunefleet/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return sorted(parts)


def _versions() -> dict[str, object]:
    return {
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "distributions": sorted(f"{item.name}=={item.version}" for item in distributions()),
    }


def _environment() -> dict[str, str]:
    return {
        name: "[redacted]" if is_secret_name(name) else value
        for name, value in sorted(os.environ.items())
        if name.startswith(_OF_INTEREST) or name in _OF_INTEREST_TOO
    }


def _local_files(folder: Path) -> dict[str, str]:
    """Return configuration and the ends of logs, by name in the bundle."""
    listing: list[str] = []
    parts: dict[str, str] = {}
    for path in _walk(folder):
        name = str(path.relative_to(folder))
        try:
            status = path.stat()
            listing.append(f"{status.st_mode & 0o7777:04o} {status.st_size:>12} {name}")
            if path.suffix == ".log":
                parts[name if name.startswith("logs/") else f"logs/{name}"] = _tail(path)
            elif name in ("endpoints.json", "up.lock", "envs/index.json") or path.name == "member.json":
                parts[name] = _tail(path)
        except OSError as error:
            listing.append(f"{name}: {error.strerror}")
    parts["files.txt"] = "\n".join(listing) + "\n"
    return parts


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files that matter: of the folder, of logs, services and members, not of artifacts."""
    if not folder.is_dir():
        return
    yield from sorted(path for path in folder.iterdir() if path.is_file())
    for name in ("logs", "services", "authority", "members"):
        for path in sorted((folder / name).rglob("*")):
            # Work folders hold rows, prompts and weights.
            if path.is_file() and not path.is_symlink() and "runs" not in path.relative_to(folder).parts:
                yield path
    index = folder / "envs" / "index.json"
    if index.is_file():
        yield index


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


async def _fleet(given: str | None) -> dict[str, str]:
    """Return what the coordinator tells; without one, why there is nothing."""
    parts: dict[str, str] = {}
    try:
        async with connect(state_folder=given) as client:
            parts["fleet.json"] = _json(_fields(await client.fleet.info()))
            parts["services.json"] = _json([_fields(item) for item in await client.fleet.list()])
            parts["plugins.json"] = _json([_fields(item) for item in await client.catalog.plugins()])
            deployments = await client.deployments.list(limit=_JOBS)
            parts["deployments.json"] = _json([_fields(item) for item in deployments])
            jobs = await client.jobs.list(limit=_JOBS)
            parts["jobs.json"] = _json([_fields(item) for item in jobs])
            # A job that did not end well tells most.
            for job in sorted(jobs, key=lambda job: not job.error.message)[:_JOBS_WITH_EVENTS]:
                parts[f"events/{short_name(job.name)}.jsonl"] = await _events(client, job)
    except TunefleetError as error:
        parts["fleet.txt"] = f"{error.message} ({error.reason.value})\n"
    return parts


async def _events(client: Client, job: Job) -> str:
    """Return the newest events of a job, without samples: those are prompts and answers."""
    lines: list[str] = []
    events = newest_events(client, job, most=_EVENTS, give_up_seconds=_EVENTS_SECONDS)
    try:
        async with asyncio.timeout(_EVENTS_SECONDS), aclosing(events):
            async for event in events:
                if not event.HasField("sample"):
                    lines.append(json.dumps(_fields(event), ensure_ascii=False))
    except (TimeoutError, TunefleetError) as error:
        lines.append(json.dumps({"cut": str(error) or "the coordinator took too long"}))
    return "\n".join(lines) + "\n"


def _fields(message: Message) -> dict[str, object]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
