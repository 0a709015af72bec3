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

__all__ = ["describe_machine", "hardware_summary"]

_NVIDIA_QUERY = ("--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits")
_MEBIBYTE = 1 << 20


def describe_machine(state_folder: Path) -> Host:
    """Return this machine. Its id is made once and kept in the state folder."""
    memory = psutil.virtual_memory().total
    return Host(
        id=_machine_id(state_folder),
        hostname=socket.gethostname(),
        platform=platform_tag(),
        cores=os.cpu_count() or 1,
        memory_bytes=memory,
        devices=_nvidia_devices() or _metal_devices(memory) or [_cpu(memory)],
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


def _cpu(memory_bytes: int) -> Device:
    return Device(
        id="cpu-0", kind="cpu", product=platform.processor() or platform.machine(), memory_bytes=memory_bytes
    )


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
