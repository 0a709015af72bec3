"""A rank for runs of several processes that says who it is and ends as it is told, by rank."""

from __future__ import annotations

import os
import time

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput, StopMode
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


class SeveralRank:
    """Backend options, each `{"<rank>": …}`: `die` exit code, `fail` reason; `wait` makes all others wait."""

    def warm(self) -> None:
        """Nothing to import."""

    def run(self, context: RunContext) -> RunOutput:
        """End as told."""
        place = context.order.place
        options = context.order.resolved_spec.spec.backend_options
        rank = str(place.rank)
        print(" ".join(f"{name}={os.environ.get(name)}" for name in _VARIABLES), flush=True)
        context.enter(RunPhase.RUN_PHASE_WORKING)
        context.notice(f"rank {rank}")
        if "die" in options and rank in options["die"]:
            os._exit(int(options["die"][rank]))
        if "fail" in options and rank in options["fail"]:
            raise TunefleetError(Reason(options["fail"][rank]), f"rank {rank} failed", hint="h")
        while "wait" in options:
            if context.stop_requested() == StopMode.STOP_MODE_CANCEL:
                raise RunStopped("cancelled")
            time.sleep(0.01)
        if place.rank:
            try:
                with context.writing_output():
                    print("wrote", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
        return RunOutput(step=place.rank)

    def audit(self, order: AuditOrder) -> AuditResult:
        """Not asked."""
        raise NotImplementedError
