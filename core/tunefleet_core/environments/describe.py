"""Ask an environment which backends it holds, in a process of its own with a time limit.

One process describes the whole environment. Where that goes wrong as a whole (it dies,
hangs, or leaves a process behind), each plugin is described in a process of its own, so
that the one at fault is named and the others count.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.environments.layout import Environment
from tunefleet_core.environments.sources import plugin_name
from tunefleet_core.plugins import ALLOW_VARIABLE
from tunefleet_core.worker.marker import end_marked, marked_environment

__all__ = ["describe_environment"]

_LIMIT_SECONDS = 30.0
_AT_ONCE = 4


class _Fault(Exception):
    """An environment, or one plugin of it, did not describe itself; the message is a clause."""


async def describe_environment(environment: Environment, cache: Path | None = None) -> list[InstalledBackend]:
    """Return the backends of an environment, failed ones with their reason.

    Never raises for what a plugin does: one that hangs or breaks is a FAILED entry. Where the
    environment names its plugins, others that are in it do not count: they are there because
    one of these builds on them, and may lack what they need themselves.
    `cache` is a file that remembers a good answer, until a distribution that is installed
    for development changes.
    """
    return [item for item in await _described(environment, cache) if _is_of(environment, item)]


def _is_of(environment: Environment, backend: InstalledBackend) -> bool:
    distribution = backend.manifest.plugin.partition("==")[0]
    return not (environment.plugins and distribution) or plugin_name(distribution) in environment.plugins


async def _described(environment: Environment, cache: Path | None) -> list[InstalledBackend]:
    if cache is not None and (remembered := await asyncio.to_thread(_remembered, cache)):
        with suppress(ValueError, KeyError, json_format.ParseError):  # another version of tunefleet wrote it
            return _parse(environment, remembered)
    try:
        text = await _ask(environment)
        found = _parse(environment, text)
    except (_Fault, ValueError, KeyError, json_format.ParseError) as error:
        return await _one_by_one(environment, _clause(error))
    if cache is not None and all(item.status == "ACTIVE" for item in found):
        write_whole_file(cache, text.encode())
    return found


def _remembered(cache: Path) -> str:
    """Return a remembered answer; empty if there is none, or if one of its sources is newer."""
    try:
        since = cache.stat().st_mtime
        text = cache.read_text()
        sources = [Path(folder) for folder in json.loads(text)["sources"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    changed = any(
        path.stat().st_mtime > since
        for folder in sources
        for name in ("*.py", "*.txt", "*.json", "*.toml")
        for path in folder.glob(f"tunefleet*/**/{name}")
    )
    return "" if changed else text


async def _one_by_one(environment: Environment, why: str) -> list[InstalledBackend]:
    try:
        names = [str(name) for name in json.loads(await _ask(environment, "--names"))["plugins"]]
    except (_Fault, ValueError, KeyError):
        return [_failed(environment, why)]
    slots = asyncio.Semaphore(_AT_ONCE)

    async def describe(name: str) -> list[InstalledBackend]:
        async with slots:
            try:
                return _parse(environment, await _ask(environment, plugin=name))
            except (_Fault, ValueError, KeyError, json_format.ParseError) as error:
                return [_failed(environment, _clause(error), plugin=name)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(describe(name)) for name in names]
    return [backend for task in tasks for backend in task.result()]


async def _ask(environment: Environment, *arguments: str, plugin: str = "") -> str:
    """Return what the describing process says. Raises _Fault; nothing it started is left.

    Its output goes to files: a process that it leaves behind would hold a pipe open.
    """
    mark = uuid.uuid4().hex
    variables = marked_environment(mark)
    if plugin:
        variables[ALLOW_VARIABLE] = plugin
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            environment.python,
            "-m",
            "tunefleet_core.plugins.describe",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=variables,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                code = await process.wait()
        except TimeoutError:
            raise _Fault(f"did not describe itself within {_LIMIT_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            left = await asyncio.to_thread(end_marked, mark, grace_seconds=0.0)
        if code != 0:
            last = _text(stderr.fileno()).strip().splitlines()[-1:] or ["no message"]
            raise _Fault(f"could not be described (exit {code}): {last[0]}")
        if left.ended:
            raise _Fault("leaves a process behind when it is described")
        return _text(stdout.fileno())


def _text(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")


def _clause(error: Exception) -> str:
    return str(error) if isinstance(error, _Fault) else f"described itself with rubbish: {error}"


def _parse(environment: Environment, text: str) -> list[InstalledBackend]:
    content: dict[str, Any] = json.loads(text)
    found: list[InstalledBackend] = []
    for item in content["backends"]:
        manifest = json_format.ParseDict(item, BackendManifest())
        if proven := content.get("conformance", {}).get(manifest.name):
            manifest.summary = f"{manifest.summary} Conformance: {proven}."
        backend = InstalledBackend(manifest=manifest, environment_digest=environment.digest, status="ACTIVE")
        if manifest.contract_version != CONTRACT_VERSION:
            backend.status = "INCOMPATIBLE"
            backend.error = (
                f"Backend '{manifest.name}' of {manifest.plugin or 'its distribution'} speaks contract "
                f"{manifest.contract_version}, this host speaks {CONTRACT_VERSION}."
            )
            backend.hint = "Upgrade the older side of the two."
        found.append(backend)
    for item in content["failed"]:
        found.append(
            InstalledBackend(
                manifest=BackendManifest(name=item["name"], plugin=f"{item['dist']}=={item['version']}"),
                environment_digest=environment.digest,
                status="FAILED",
                error=item["error"],
                hint=item["hint"],
            )
        )
    return found


def _failed(environment: Environment, fault: str, plugin: str = "") -> InstalledBackend:
    installed = environment.plugins[0] if environment.plugins else "NAME"
    return InstalledBackend(
        manifest=BackendManifest(name=plugin or ",".join(environment.plugins) or environment.digest[:12]),
        environment_digest=environment.digest,
        status="FAILED",
        error=f"{f'Plugin {plugin!r}' if plugin else f'Environment {environment.digest[:12]}'} {fault}.",
        hint=f"Uninstall it or report it to its makers; others: {ALLOW_VARIABLE} names those to load."
        if plugin
        else f"tunefleet plugins install {installed}",
    )
