"""Seven backends with one fault each. The conformance kit must name exactly that fault.

    python fakes.py NAME --socket PATH --lease-seconds 10 --owner-pid 1

Each is the echo backend behind the real contract host, with one thing broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1 import backend_service_pb2_grpc as backend_grpc
from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.run_pb2 import RunOrder, RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.plugins import find_backend
from tunefleet_core.rpc import ErrorInterceptor, RpcContext
from tunefleet_core.rpc.channels import MESSAGE_OPTIONS
from tunefleet_core.worker.backend_host import BackendHost
from tunefleet_core.worker.hosted_run import SPOOL_NAME
from tunefleet_core.worker.servicer import BackendServicer
from tunefleet_core.worker.spool import read_spool
from tunefleet_echo.rank import EchoRank

_SLEEPER = "import os, time; os.setsid(); time.sleep(600)"


class LeakyRank(EchoRank):
    """Leaves a process behind when a run has gone well."""

    def run(self, context: RunContext) -> RunOutput:
        output = super().run(context)
        subprocess.Popen(
            [sys.executable, "-c", _SLEEPER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return output


class Forgetful(BackendServicer):
    """Not idempotent: a start that is repeated is a fault, not the same run."""

    async def StartRun(self, request: pb.StartRunRequest, context: RpcContext) -> pb.StartRunResponse:
        run = self._host.runs.get(request.order.run)
        if run is not None and run.is_ended:
            raise TunefleetError(Reason.STATE_CONFLICT, f"Run '{request.order.run}' exists.")
        return await super().StartRun(request, context)


class Shuffling(BackendServicer):
    """Out of order: the first two events of a whole history are the wrong way round."""

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: RpcContext
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        run = self._host.runs.get(request.run)
        wrong = run is not None and run.is_ended and not request.after_source_sequence
        async for response in super().StreamRunEvents(request, context):
            if wrong and len(response.events) > 3:
                last = [pb.StreamRunEventsResponse.FromString(response.SerializeToString())]
                response.events[-1].CopyFrom(last[0].events[-2])
                response.events[-2].CopyFrom(last[0].events[-1])
            yield response


class Deaf(BackendServicer):
    """Hangs on stop: one that comes before the first step is never answered."""

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        self._orders: dict[str, RunOrder] = {}

    async def StartRun(self, request: pb.StartRunRequest, context: RpcContext) -> pb.StartRunResponse:
        response = await super().StartRun(request, context)
        self._orders[request.order.run] = request.order
        return response

    async def StopRun(self, request: pb.StopRunRequest, context: RpcContext) -> pb.StopRunResponse:
        run = self._host.runs.get(request.run)
        if run is not None and not run.is_ended and not _has_worked(self._orders[request.run]):
            await asyncio.sleep(600)
        return await super().StopRun(request, context)


class Miscoding(BackendServicer):
    """Wrong code: an unknown run is a wrong state instead of not found."""

    async def GetRun(self, request: pb.GetRunRequest, context: RpcContext) -> pb.GetRunResponse:
        if request.run.startswith("nobody"):
            raise TunefleetError(Reason.STATE_CONFLICT, f"Run '{request.run}' is not there.")
        return await super().GetRun(request, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fake:
    """A broken backend, and the one test of the kit that it must fail."""

    fails: str
    servicer: type[BackendServicer] = BackendServicer
    rank_entry: str = ""
    lies: tuple[Capability.ValueType, ...] = ()
    prints: bool = False


FAKES = {
    "leaky": Fake(fails="test_a_run_that_ended_leaves_no_process", rank_entry="fakes:LeakyRank"),
    "non-idempotent": Fake(fails="test_starting_an_ended_run_returns_its_end", servicer=Forgetful),
    "out-of-order": Fake(fails="test_events_are_numbered_in_order_without_gaps", servicer=Shuffling),
    "hangs-on-stop": Fake(fails="test_a_run_that_has_just_started_can_be_cancelled", servicer=Deaf),
    "prints-to-stdout": Fake(fails="test_the_worker_prints_nothing_to_standard_output", prints=True),
    "lies-about-capability": Fake(
        fails="test_capability_dora", lies=(Capability.CAPABILITY_DORA,), servicer=BackendServicer
    ),
    "wrong-code": Fake(fails="test_an_unknown_run_is_not_found", servicer=Miscoding),
}


def _has_worked(order: RunOrder) -> bool:
    return any(event.HasField("metrics") for event in read_spool(Path(order.work_dir) / SPOOL_NAME))


class _Liar(BackendServicer):
    """Serves what it really has, and tells the manifest of more."""

    def __init__(self, host: BackendHost, told: BackendManifest) -> None:
        super().__init__(host)
        self._told = told

    async def GetBackend(self, request: pb.GetBackendRequest, context: RpcContext) -> pb.GetBackendResponse:
        self._host.touch()
        return pb.GetBackendResponse(manifest=self._told)


def _servicer(fake: Fake, host: BackendHost) -> BackendServicer:
    if not fake.lies:
        return fake.servicer(host)
    told = BackendManifest.FromString(host.manifest.SerializeToString())
    told.capabilities.extend(fake.lies)
    return _Liar(host, told)


async def _serve(fake: Fake, arguments: argparse.Namespace) -> None:
    manifest = find_backend("echo")
    manifest.rank_entry = fake.rank_entry or manifest.rank_entry
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=MESSAGE_OPTIONS)
    async with asyncio.TaskGroup() as group:
        host = BackendHost(
            manifest, lease_seconds=arguments.lease_seconds, owner_pid=arguments.owner_pid, group=group
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, host.stopping.set)
        backend_grpc.add_BackendServiceServicer_to_server(_servicer(fake, host), server)
        server.add_insecure_port(f"unix:{arguments.socket}")
        await server.start()
        try:
            await host.watch_owner()
        finally:
            await host.end()
            await server.stop(grace=0.2)


def main() -> None:
    """Serve one fake."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FAKES))
    parser.add_argument("--socket", required=True)
    parser.add_argument("--lease-seconds", type=float, required=True)
    parser.add_argument("--owner-pid", type=int, required=True)
    arguments = parser.parse_args()
    fake = FAKES[arguments.name]
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for the rank processes
    if fake.prints:
        print("Loading my wonderful backend ...", flush=True)
    asyncio.run(_serve(fake, arguments))


if __name__ == "__main__":
    main()
