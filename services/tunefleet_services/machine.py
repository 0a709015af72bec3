"""What this machine is: its id, its cores, its devices."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import psutil

from tunefleet.type.v1.device_pb2 import Device, Host
from tunefleet_core.environments.install import platform_tag
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["CPU_DEVICES", "describe_machine", "hardware_summary"]

CPU_DEVICES = "TUNEFLEET_CPU_DEVICES"
"""Environment variable: as how many devices a machine without an accelerator offers its processor.

One unless it is set. A job with `resources.devices: 2` takes two of them and starts a process for
each. Set it once for every service of the host: they book from the same list.
"""

_NVIDIA_QUERY = ("--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits")
_MEBIBYTE = 1 << 20
_MOST_CPU_DEVICES = 64


def describe_machine(state_folder: Path) -> Host:
    """Return this machine. Its id is made once and kept in the state folder."""
    memory = psutil.virtual_memory().total
    return Host(
        id=_machine_id(state_folder),
        hostname=socket.gethostname(),
        platform=platform_tag(),
        cores=os.cpu_count() or 1,
        memory_bytes=memory,
        devices=_nvidia_devices() or _metal_devices(memory) or _processors(memory),
    )


def hardware_summary(host: Host) -> str:
    """Return one line for people, kept in the lineage of artifacts."""
    devices = ", ".join(device.product or device.kind for device in host.devices)
    return f"{host.platform}, {host.cores} cores, {host.memory_bytes >> 30} GiB, {devices}"


def _machine_id(state_folder: Path) -> str:
    file = state_folder / "machine-id"
    if not file.is_file():
        state_folder.mkdir(parents=True, exist_ok=True)
        candidate = file.with_name(f".machine-id.{os.getpid()}")
        candidate.write_text(f"{uuid.uuid4().hex}\n")
        try:
            os.link(candidate, file)  # two services may start at once: the first wins
        except FileExistsError:
            pass
        finally:
            candidate.unlink()
    return file.read_text().strip()


def _processors(memory_bytes: int) -> list[Device]:
    """Return the processor as one device, or as several that share its memory."""
    count = _asked_cpu_devices()
    product = platform.processor() or platform.machine()
    return [
        Device(id=f"cpu-{number}", kind="cpu", product=product, memory_bytes=memory_bytes // count)
        for number in range(count)
    ]


def _asked_cpu_devices() -> int:
    text = os.environ.get(CPU_DEVICES, "1")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_CPU_DEVICES:
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"{CPU_DEVICES} is '{text}', and must be a number from 1 to {_MOST_CPU_DEVICES}.",
            hint=f"Unset it, or set it to the processes that a job may start: {CPU_DEVICES}=2",
            metadata={"field": CPU_DEVICES},
        )
    return int(text)


def _nvidia_devices() -> list[Device]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        result = subprocess.run(
            [command, *_NVIDIA_QUERY], capture_output=True, text=True, timeout=20, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return []
    devices: list[Device] = []
    for line in result.stdout.strip().splitlines():
        identifier, product, memory = (part.strip() for part in line.split(","))
        devices.append(
            Device(id=identifier, kind="cuda", product=product, memory_bytes=int(memory) * _MEBIBYTE)
        )
    return devices


def _metal_devices(memory_bytes: int) -> list[Device]:
    if platform_tag() != "macos-arm64":
        return []
    return [Device(id="metal-0", kind="metal", product="Apple GPU", memory_bytes=memory_bytes)]
