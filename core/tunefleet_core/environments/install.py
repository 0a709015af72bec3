"""Install a backend plugin into an environment of its own.

The environment is named by its lock: the digest of the pinned requirements, the
Python version, the platform and the version of tunefleet. Plugins whose locks
agree share it. It is built under a temporary name's marker and counts only when
the index names it, so a failed install leaves what was there working. A plugin counts
as installed only once its environment has described it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core import __version__
from tunefleet_core.environments.describe import describe_environment
from tunefleet_core.environments.layout import COMPLETE, Environment, EnvironmentIndex
from tunefleet_core.environments.sources import (
    PluginSource,
    find_plugin_source,
    plugins_below,
    tunefleet_requirement,
)
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["InstallReport", "accelerator_tag", "install", "lock_digest", "platform_tag"]

_TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own CPU wheels; PyPI's pull CUDA
_SIZE = re.compile(r"^# size: (.+)$", re.MULTILINE)
_RESOLVE_TORCH = "# resolve-torch-dependencies"
_BUILD_SETTINGS = " --config-settings"
_HASH = " --hash="
_LOCKS = "{locks}"
"""In a lock, the folder it lies in: a build may be given a file from there."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallReport:
    """What an install did."""

    plugin: str
    environment: Environment
    was_ready: bool


def platform_tag() -> str:
    """Return the platform as lock files name it, such as `linux-x86_64` or `macos-arm64`."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    return f"{system}-{platform.machine()}"


def accelerator_tag() -> str:
    """Return `cuda` where an NVIDIA driver is present, else `cpu`."""
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"


def lock_digest(lock: str) -> str:
    """Return the digest that names an environment, 32 hex digits."""
    parts = (lock, f"{sys.version_info.major}.{sys.version_info.minor}", platform_tag(), __version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def install(name_or_path: str, state_folder: Path, progress: Progress) -> InstallReport:
    """Install a plugin by name or folder; blocks for as long as downloads take.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED, with the last lines of the installer.
    """
    source = find_plugin_source(name_or_path)
    index = EnvironmentIndex(state_folder)
    with index.changing(lambda: progress("Another install or removal goes on; this one comes after it")):
        return _install(source, index, progress)


def _install(source: PluginSource, index: EnvironmentIndex, progress: Progress) -> InstallReport:
    lock = _lock_text(source)
    digest = lock_digest(lock)
    folder = index.folder_of(digest)
    python = folder / "bin" / "python"
    was_ready = (folder / COMPLETE).exists()
    if not was_ready:
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"Making environment {digest[:12]} for {source.name}: {_size(source, lock, index)}")
        _build(folder, python, lock.replace(_LOCKS, str(source.locks.absolute())), progress)
        (folder / "lock.txt").write_text(lock)
        (folder / COMPLETE).touch()
    for part in (*plugins_below(source), source):
        progress(f"Adding {part.name} to environment {digest[:12]}")
        _pip(python, [*(["--no-deps"] if source.is_locked else []), *part.install_arguments])
    environment = Environment(digest=digest, python=str(python))
    known = index.read().get(source.name)
    _require_described(source, environment, was_there=known is not None and known.digest == digest)
    (folder / "describe.json").unlink(missing_ok=True)
    index.add(source.name, environment)
    return InstallReport(plugin=source.name, environment=environment, was_ready=was_ready)


def _build(folder: Path, python: Path, lock: str, progress: Progress) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    command = [uv, "venv", "--seed", str(folder)] if uv else [sys.executable, "-m", "venv", str(folder)]
    _run(command)
    pins = [line.strip() for line in lock.splitlines() if line.strip() and not line.startswith("#")]
    torch = [pin for pin in pins if pin.startswith("torch==")]
    rest = [pin for pin in pins if pin not in torch]
    if torch:
        progress(f"Installing {torch[0]}")
        if _RESOLVE_TORCH in lock:
            _pip(python, torch)
        elif sys.platform == "linux":
            # One retry only: where that index cannot be reached, a configured mirror may have the wheel.
            _pip(python, ["--no-deps", "--retries", "1", "--index-url", _TORCH_CPU_INDEX, *torch])
        else:
            _pip(python, ["--no-deps", *torch])
    if rest:
        progress(f"Installing {len(rest)} pinned packages")
        built = [pin for pin in rest if _BUILD_SETTINGS in pin]
        hashed = [pin for pin in rest if _HASH in pin]
        _pip(python, ["--no-deps", *(pin for pin in rest if pin not in built and pin not in hashed)])
        if hashed:  # pip reads a hash from a file alone
            file = folder / "hashed.txt"
            file.write_text("\n".join(hashed) + "\n")
            _pip(python, ["--no-deps", "--require-hashes", "--requirement", str(file)])
        _pip_build(python, folder / "built.txt", built, progress)
    _pip(python, [*tunefleet_requirement()])


def _pip_build(python: Path, file: Path, pins: Sequence[str], progress: Progress) -> None:
    """Install what is built from its source with settings, as pip reads them from a file.

    Never from pip's cache: that does not know with which settings its wheels were built.
    """
    if pins:
        progress(f"Building {', '.join(pin.split()[0] for pin in pins)} from source: minutes")
        file.write_text("\n".join(pins) + "\n")
        _pip(python, ["--no-deps", "--no-cache-dir", "--requirement", str(file)])


def _require_described(source: PluginSource, environment: Environment, *, was_there: bool) -> None:
    """Raise BACKEND_NOT_INSTALLED unless the plugin works where it was put; else take it out again."""
    found = asyncio.run(describe_environment(environment))
    ours = [item for item in found if item.manifest.plugin.partition("==")[0] == source.distribution]
    broken = next((item for item in ours if item.status != "ACTIVE"), None)
    if ours and broken is None:
        return
    if not was_there:
        _run([environment.python, "-m", "pip", "uninstall", "--quiet", "--yes", source.distribution])
    raise TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        broken.error if broken else f"'{source.distribution}' was installed but brings no backend.",
        hint=(broken.hint if broken else "")
        or "Give it an entry point of the group 'tunefleet': tunefleet plugins new NAME shows one.",
        metadata={"plugin": source.name},
    )


def _size(source: PluginSource, lock: str, index: EnvironmentIndex) -> str:
    """Return what an environment will take, as far as it is known before the download."""
    if not source.is_locked:
        return f"its {len(source.dependencies)} dependencies and theirs, of a size known when they are there"
    known = _SIZE.search(lock)
    free = shutil.disk_usage(index.existing_folder()).free
    size = f"about {known.group(1)} on disk" if known else "size unknown"
    return f"{_count(lock)} packages, {size}, {free / 1e9:.1f} GB free"


def _lock_text(source: PluginSource) -> str:
    if not source.is_locked:
        return "# unlocked: " + " ".join(sorted(source.dependencies))
    tags = (f"{platform_tag()}-{accelerator_tag()}", f"{platform_tag()}-cpu", platform_tag())
    for tag in tags:
        file = source.locks / f"{tag}.txt"
        if file.is_file():
            return file.read_text()
    raise TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        f"Plugin '{source.name}' has no lock for this platform ({tags[0]}).",
        hint=f"Platforms it has: {', '.join(sorted(p.stem for p in source.locks.glob('*.txt'))) or 'none'}.",
        metadata={"plugin": source.name, "platform": tags[0]},
    )


def _pip(python: Path, arguments: Sequence[str]) -> None:
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
        raise TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"The installer failed (exit {result.returncode}); what was there still works.\n{last}",
            hint="Correct what the installer says (network, disk, Python version), then run it again.",
            metadata={"command": " ".join(command[:4])},
        )


def _count(lock: str) -> int:
    return sum(1 for line in lock.splitlines() if "==" in line)
