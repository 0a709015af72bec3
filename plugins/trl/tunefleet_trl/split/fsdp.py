"""TRL's trainer with FSDP2: every process holds a part of each weight, its gradient and its moments."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import first_line
from tunefleet_trl.processes import count_of, is_first
from tunefleet_trl.split.trainer import SplitTrainer

__all__ = ["FSDP_ARGUMENTS", "FsdpTrainer", "forget_fsdp"]

FSDP_ARGUMENTS: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "reshard_after_forward": True, "cpu_ram_efficient_loading": False},
}
"""Arguments of the library's trainer: the weights of a layer are whole only while it is computed."""
_SCHEDULE = "scheduler.pt"
_VARIABLES = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")


class FsdpTrainer(SplitTrainer):
    """A trainer whose model is split by FSDP2.

    A checkpoint is one file of each process, read as tensors and plain values alone.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Make the library's state, and tell it of FSDP2 on a processor too.

        accelerate 1.15 takes FSDP only beside an accelerator, though torch splits over processors
        just as well: there it would keep the model whole on each, without a word.
        """
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:
            plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            if state.mixed_precision != "no":
                plugin.set_mixed_precision(state.mixed_precision)
            state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
            self.is_fsdp_enabled = True
        if not self.accelerator.is_fsdp2:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"accelerate sees {state.distributed_type.value}, where the job asks for FSDP2.",
                hint="Reinstall the backend: tunefleet plugins install trl",
            )

    def gather(self, *, keeps: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, parameter in self._trained_parts().items():
            whole = parameter.full_tensor()
            if keeps:
                found[name] = whole.detach().to("cpu", torch.float32, copy=True)
        return found

    def write_training_state(self, folder: Path) -> None:
        order = self._context.order
        part = {
            "processes": count_of(order),
            "weights": {name: _own(weight) for name, weight in self._trained_parts().items()},
            "optimizer": _own(self.optimizer.state_dict()),
        }
        torch.save(part, folder / _part_name(order.place.rank))
        if is_first(order):
            torch.save(self.lr_scheduler.state_dict(), folder / _SCHEDULE)

    def read_training_state(self, folder: Path) -> None:
        self._load_from_checkpoint(str(folder))
        self._load_optimizer_and_scheduler(str(folder))

    def try_step(self, batch: Any) -> float:
        self.accelerator.gradient_state._set_sync_gradients(True)
        self.current_gradient_accumulation_steps = 1
        loss = self.training_step(self.model_wrapped, batch, self.trained_in(batch))
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return float(loss)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = self._read_part(Path(resume_from_checkpoint))["weights"]
        parts = self._trained_parts()
        if weights.keys() != parts.keys():
            raise _unreadable(Path(resume_from_checkpoint), "it holds other weights than this run trains")
        with torch.no_grad():
            for name, weight in weights.items():
                parts[name].to_local().copy_(weight)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        kept = self._read_part(Path(checkpoint))["optimizer"]
        trained = [item for group in self.optimizer.param_groups for item in group["params"]]
        for number, state in kept["state"].items():
            for name, value in state.items():
                if value.dim():  # else a counter, which every process has
                    state[name] = _as_part_of(trained[number], value)
        self.optimizer.load_state_dict(kept)
        schedule = torch.load(Path(checkpoint) / _SCHEDULE, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)
        self.scale_rates()

    def _trained_parts(self) -> dict[str, Any]:
        """Return this process's part of every trained weight.

        A forward pass without a backward one leaves some layers whole: in that form they hide their
        parts, and would be computed with when the parts have changed.
        """
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return {name: item for name, item in self.model.named_parameters() if item.requires_grad}

    def _read_part(self, folder: Path) -> Any:
        order = self._context.order
        try:
            part = torch.load(folder / _part_name(order.place.rank), map_location="cpu", weights_only=True)
        except (UnpicklingError, OSError, RuntimeError) as error:
            raise _unreadable(folder, first_line(error)) from error
        if part["processes"] != count_of(order):
            raise _unreadable(folder, f"it was written by {part['processes']} processes")
        return part


def forget_fsdp() -> None:
    """Take out of the environment what the libraries have put there: what follows is whole."""
    for name in _VARIABLES:
        os.environ.pop(name, None)


def _part_name(rank: int) -> str:
    return f"part-{rank}.pt"


def _own(value: Any) -> Any:
    """Return a value with what this process holds in the place of what is split."""
    if isinstance(value, DTensor):
        value = value.to_local()
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _as_part_of(weight: DTensor, value: torch.Tensor) -> DTensor:
    return DTensor.from_local(
        value.to(weight.device),
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


def _unreadable(folder: Path, why: str) -> TunefleetError:
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The checkpoint '{folder}' cannot be read: {why}.",
        hint="Start the job again from an older checkpoint, or from the beginning.",
        metadata={"path": str(folder)},
    )
