"""The processes of a run meet, and the libraries are told that they have: with or without an accelerator.

accelerate 1.15 knows DeepSpeed only beside an accelerator: without one it finds no way for
processes to talk, and each would train alone; told to use the processor, it leaves DeepSpeed
out. So its state is made here, with the group that the processes have made already, and
handed to the trainer as one that was configured before. Where there is an accelerator the
same calls say what the library would have found.
"""

from __future__ import annotations

import os

import deepspeed.ops
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from deepspeed import comm

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_trl.processes import BACKENDS, count_of, join_processes, leave_processes

__all__ = ["USES_OUR_STATE", "join", "leave", "tell_libraries"]

USES_OUR_STATE = {"accelerator_config": {"use_configured_state": True}}
"""Arguments of the library's trainer that make it take the state that `tell_libraries` made."""
_ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}
_ASKED = "ACCELERATE_USE_DEEPSPEED"
_WAYS = {"cpu": "gloo", "cuda": "nccl"}


def join(order: RunOrder, kind: str) -> None:
    """Meet the other processes of a run; one alone makes a group of one, without which nothing is split.

    Args:
        order: The run.
        kind: What it computes on, `cpu` or `cuda`.

    Raises:
        TunefleetError: BACKEND_FAILED if there are not as many processes as the job asks for.
    """
    join_processes(order, kind)
    if count_of(order) == 1:
        os.environ.update(_ALONE)
        dist.init_process_group(BACKENDS[kind], store=dist.HashStore(), rank=0, world_size=1)
    if kind == "cpu":
        # Its own exchange between processors is compiled at first use, for minutes.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    comm.init_distributed(dist_backend=_WAYS[kind], auto_mpi_discovery=False, verbose=False)


def tell_libraries(kind: str) -> None:
    """Make accelerate's state anew, with DeepSpeed and the group that is there.

    Raises:
        TunefleetError: BACKEND_FAILED if the library still does not see DeepSpeed.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ[_ASKED] = "true"
    state = PartialState(backend=_WAYS[kind])
    if state.distributed_type != DistributedType.DEEPSPEED or state.device.type != kind:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"accelerate sees {state.distributed_type.value} on {state.device.type}, "
            f"where DeepSpeed runs on {kind}.",
            hint="Reinstall the backend: tunefleet plugins install deepspeed",
        )


def leave(order: RunOrder) -> None:
    """Part for good: what follows is done by one process, or by each alone."""
    leave_processes(order)
    if count_of(order) == 1:
        dist.destroy_process_group()
    for name in (*_ALONE, _ASKED):  # a process started from here would look for the others
        os.environ.pop(name, None)
