"""The rank processes of one run: how they meet, agree and write one folder together.

Each has a device of its own and the same order but for its place. They meet in a file of the
run's folder, so no port is taken. What has to be decided alike everywhere, as when to save, is
decided by the first one: any other choice would leave one waiting for an exchange that the
others have passed. All of this does nothing in a run of one process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "BACKENDS",
    "agreed",
    "count_of",
    "is_first",
    "join_processes",
    "leave_processes",
    "require_world",
    "summed",
    "tell_repeated_rows",
    "wait_for_all",
    "writing_together",
]

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""How processes exchange, by what they compute on: what is agreed upon stays on the host everywhere."""
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_PLACE_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count_of(order: RunOrder) -> int:
    """Return how many rank processes a run has."""
    return order.place.world_size or 1


def is_first(order: RunOrder) -> bool:
    """Return whether this process is the one that reports and writes."""
    return order.place.rank == 0


def join_processes(order: RunOrder, kind: str) -> None:
    """Meet the other processes of a run; returns when all are there.

    Args:
        order: The run.
        kind: What it computes on, `cpu` or `cuda`.

    Raises:
        TunefleetError: BACKEND_FAILED if there are not as many processes as the job asks for.
    """
    wanted = max(1, order.resolved_spec.spec.resources.devices)
    if count_of(order) != wanted:
        raise _wrong_world(wanted, count_of(order), "rank processes were started")
    if wanted == 1:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)  # one host: nothing of it leaves the machine
    dist.init_process_group(
        BACKENDS[kind],
        init_method=f"file://{order.place.rendezvous}",
        rank=order.place.rank,
        world_size=wanted,
    )
    require_world(dist.get_world_size(), order, "processes have met")


def require_world(found: int, order: RunOrder, what: str = "processes are known to the library") -> None:
    """Refuse to train with another number of processes than the job asks for.

    A library that finds one where there are several would train each of them alone, on all the
    rows, without a word.

    Raises:
        TunefleetError: BACKEND_FAILED.
    """
    wanted = max(1, order.resolved_spec.spec.resources.devices)
    if found != wanted:
        raise _wrong_world(wanted, found, what)


def tell_repeated_rows(context: RunContext, rows: int, micro: int) -> None:
    """Tell how many rows of an epoch are trained twice, so that the processes stay in step.

    Each takes as many micro batches as the others, and the last of an epoch is filled up from its
    beginning. One process would take a shorter last step instead.
    """
    at_once = micro * count_of(context.order)
    if count_of(context.order) > 1 and rows % at_once:
        context.notice(
            f"{at_once - rows % at_once} of {rows} rows are trained twice in each epoch, so that the "
            f"{count_of(context.order)} devices stay in step.",
            hint=f"Give a multiple of {at_once} rows to avoid it.",
            severity="info",
        )


def leave_processes(order: RunOrder) -> None:
    """Part for good: what follows is done by one process, or by each alone."""
    if count_of(order) == 1:
        return
    dist.barrier()
    dist.destroy_process_group()
    for name in _PLACE_VARIABLES:  # a process started from here would look for the others
        os.environ.pop(name, None)


def agreed(order: RunOrder, value: int) -> int:
    """Return what the first process says; every process has to ask at the same point."""
    if count_of(order) == 1:
        return value
    told = torch.tensor([value], dtype=torch.int64)  # on the processor: gloo is there on every device
    dist.broadcast(told, src=0)
    return int(told.item())


def summed(order: RunOrder, values: list[int]) -> list[int]:
    """Return the sums over all processes; every process has to ask at the same point, with as many values."""
    if count_of(order) == 1 or not values:
        return values
    told = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(told)
    return told.tolist()


def wait_for_all(order: RunOrder) -> None:
    """Return when every process has come here."""
    if count_of(order) > 1:
        dist.barrier()


@contextmanager
def writing_together(order: RunOrder, opened: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    """Yield one folder to every process; the first one opens it, and closes it when all have written.

    Example:
        with writing_together(order, lambda: context.checkpoint(step)) as folder:
            save_own_part(folder)
    """
    if count_of(order) == 1:
        with opened() as folder:
            yield folder
        return
    told: list[str] = [""]
    if is_first(order):
        with opened() as folder:
            told = [str(folder)]
            dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
            yield folder
            dist.barrier()
        dist.barrier()  # nobody goes on while the folder is only half a checkpoint
        return
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    yield Path(told[0])
    dist.barrier()
    dist.barrier()


def _wrong_world(wanted: int, found: int, what: str) -> TunefleetError:
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The job asks for {wanted} devices, and {found} {what}.",
        hint="Reinstall the backend: tunefleet plugins install trl. Until then set resources.devices to 1.",
        metadata={"world_size": str(found), "devices": str(wanted)},
    )
