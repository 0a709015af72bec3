"""The plugin's driver, with the options and stand-ins by which SGLang starts without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet_core.backend import EngineCommand
from tunefleet_sglang.driver import SglangDriver

__all__ = ["OnCpuDriver"]

_STAND_INS = Path(__file__).resolve().parent / "stand_ins"
_OPTIONS = {
    "device": "cpu",
    "attention-backend": "torch_native",
    "sampling-backend": "pytorch",
    "lora-backend": "torch_native",
    "max-total-tokens": 4096,
    "sleep-on-idle": True,  # else its scheduler turns over a core between two requests
}


class OnCpuDriver(SglangDriver):
    """Changes what is ordered, not what is done about it."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves without a GPU."""
        ordered = EngineOrder()
        ordered.CopyFrom(order)
        del ordered.device_ids[:]  # the plugin refuses a processor
        ordered.settings.options.update(_OPTIONS)
        command = super().command(ordered, port)
        return replace(
            command,
            environment={
                **command.environment,
                "PYTHONPATH": str(_STAND_INS),
                "SGLANG_USE_CPU_ENGINE": "1",
                "OMP_NUM_THREADS": "1",
            },
        )
