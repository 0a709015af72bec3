"""What a machine without an accelerator offers as devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.machine import CPU_DEVICES, describe_machine

pytestmark = pytest.mark.usefixtures("_no_accelerator")


@pytest.fixture
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunefleet_services.machine._nvidia_devices", list)
    monkeypatch.setattr("tunefleet_services.machine._metal_devices", lambda _: [])
    monkeypatch.delenv(CPU_DEVICES, raising=False)


def test_a_processor_is_one_device_unless_it_is_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = describe_machine(tmp_path)
    assert [(device.id, device.memory_bytes) for device in host.devices] == [("cpu-0", host.memory_bytes)]
    monkeypatch.setenv(CPU_DEVICES, "2")
    host = describe_machine(tmp_path)
    half = host.memory_bytes // 2
    assert [(device.id, device.kind, device.memory_bytes) for device in host.devices] == [
        ("cpu-0", "cpu", half),
        ("cpu-1", "cpu", half),
    ]


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1000", "2.0"])
def test_a_number_of_devices_that_is_none_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CPU_DEVICES, text)
    with pytest.raises(TunefleetError, match=CPU_DEVICES) as caught:
        describe_machine(tmp_path)
    assert caught.value.reason is Reason.FIELD_INVALID
