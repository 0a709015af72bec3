"""A backend in one file: plain grpcio and the generated stubs, nothing of tunefleet's Python base.

    python minimal_worker.py --socket PATH --lease-seconds 10

It trains like a clock: every step extends a number, and the output is that number. It shows
what a backend in another language has to do, and that the contract needs no more than its protos.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tunefleet.artifact.v1.artifact_pb2 import ARTIFACT_KIND_ADAPTER
from tunefleet.backend.v1 import backend_pb2, backend_service_pb2, backend_service_pb2_grpc, run_pb2
from tunefleet.job.v1 import event_pb2

CONTRACT_VERSION = 1
STEP_SECONDS = 0.005
C = backend_pb2.Capability
HAS = [C.CAPABILITY_TRAIN, C.CAPABILITY_SFT, C.CAPABILITY_LORA, C.CAPABILITY_CHECKPOINT_RESUME]
REASON_CODES = {
    "FIELD_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "JOB_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CAPABILITY_UNSUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
}


class Refusal(Exception):
    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


def status(reason, message, code=code_pb2.Code.FAILED_PRECONDITION):
    answer = status_pb2.Status(code=code, message=message)
    answer.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="tunefleet"))
    return answer


def refusing(method):
    """Turn a Refusal into a canonical code with exactly one ErrorInfo."""

    @functools.wraps(method)
    def call(self, request, context):
        self.heard = time.monotonic()
        try:
            return method(self, request, context)
        except Refusal as refusal:
            code = REASON_CODES[refusal.reason]
            details = status(refusal.reason, str(refusal), code_pb2.Code.Value(code.name))
            context.set_trailing_metadata((("grpc-status-details-bin", details.SerializeToString()),))
            context.abort(code, str(refusal))

    return call


class Run(threading.Thread):
    """A run is a thread here; a real backend would start a process that owns the device."""

    def __init__(self, order):
        super().__init__(daemon=True)
        self.order, self.folder = order, Path(order.work_dir)
        self.events, self.changed = [], threading.Condition()
        self.shown = run_pb2.Run(name=order.run, state=run_pb2.RUN_STATE_RUNNING)
        self.asked = run_pb2.STOP_MODE_UNSPECIFIED

    def tell(self, **payload):
        with self.changed:
            now = Timestamp()
            now.GetCurrentTime()
            self.events.append(
                event_pb2.JobEvent(
                    attempt=self.order.attempt,
                    source_sequence=len(self.events) + 1,
                    create_time=now,
                    **payload,
                )
            )
            self.shown.last_source_sequence = len(self.events)
            self.changed.notify_all()

    def enter(self, phase):
        self.tell(phase_changed=event_pb2.PhaseChanged(phase=phase))

    def run(self):
        try:
            outcome = self.work()
        except Exception as error:
            outcome = event_pb2.ATTEMPT_OUTCOME_FAILED
            self.shown.error.CopyFrom(status("BACKEND_FAILED", f"{type(error).__name__}: {error}"))
        with self.changed:
            self.shown.outcome, self.shown.state = outcome, run_pb2.RUN_STATE_ENDED
            self.changed.notify_all()

    def work(self):
        train = self.order.resolved_spec.spec.train
        total, every = train.optim.max_steps, train.checkpoint.every_steps
        self.enter(event_pb2.RUN_PHASE_STARTING)
        step, state = 0, train.seed
        if self.order.resume_from:
            step, state = json.loads((Path(self.order.resume_from) / "state.json").read_text())
        self.enter(event_pb2.RUN_PHASE_WORKING)
        saved = step
        while step < total:
            time.sleep(STEP_SECONDS)
            if self.asked == run_pb2.STOP_MODE_CANCEL:
                return event_pb2.ATTEMPT_OUTCOME_CANCELLED
            if self.asked == run_pb2.STOP_MODE_SAVE:
                if step > saved:
                    self.save(step, state)
                return event_pb2.ATTEMPT_OUTCOME_PAUSED
            step, state = step + 1, (state * 6364136223846793005 + 1442695040888963407) % 2**64
            self.tell(metrics=event_pb2.Metrics(step=step, total_steps=total, loss=1 / (1 + step)))
            if step % every == 0 and step < total:
                self.save(step, state)
                saved = step
        self.enter(event_pb2.RUN_PHASE_SAVING)
        self.write(self.folder / "output", step, state)
        self.shown.output.kind, self.shown.output.step = ARTIFACT_KIND_ADAPTER, step
        return event_pb2.ATTEMPT_OUTCOME_SUCCEEDED

    def save(self, step, state):
        path = f"checkpoints/step-{step:08d}"
        self.write(self.folder / path, step, state)
        saved = event_pb2.CheckpointSaved(step=step, path=path)
        self.shown.checkpoints.append(saved)
        self.tell(checkpoint_saved=saved)

    @staticmethod
    def write(folder, step, state):
        partial = folder.with_name(folder.name + ".partial")  # whole or not at all
        partial.mkdir(parents=True)
        (partial / "state.json").write_text(json.dumps([step, state]))
        partial.rename(folder)


class Worker(backend_service_pb2_grpc.BackendServiceServicer):
    def __init__(self):
        self.runs, self.lock, self.heard = {}, threading.Lock(), time.monotonic()

    def find(self, name):
        if name not in self.runs:
            raise Refusal("JOB_NOT_FOUND", f"No run '{name}' here.")
        return self.runs[name]

    @staticmethod
    def check(spec):
        work, train = spec.WhichOneof("work"), spec.train
        if work is None:
            raise Refusal("FIELD_INVALID", "spec.work: must be given")
        unsupported = bool(
            work != "train" or not train.HasField("adapter") or train.quantization or train.merge
        )
        lora = train.adapter.lora
        saving = train.checkpoint
        unsupported |= bool(train.samples.prompts or saving.best_by or saving.every_minutes)
        unsupported |= bool(train.divergence.max_rollbacks or train.data.general)
        unsupported |= train.adapter.HasField("prompt_tuning")
        if unsupported or lora.dora or lora.rslora or lora.experts or spec.resources.devices > 1:
            raise Refusal("CAPABILITY_UNSUPPORTED", "This backend trains plain LoRA adapters only.")

    @refusing
    def GetBackend(self, request, context):
        manifest = backend_pb2.BackendManifest(
            name="minimal",
            contract_version=CONTRACT_VERSION,
            capabilities=HAS,
            plugin="minimal-worker==1",
            device_kinds=["cpu"],
            summary="A clock that calls itself a trainer.",
        )
        return backend_service_pb2.GetBackendResponse(manifest=manifest)

    @refusing
    def ValidateRun(self, request, context):
        self.check(request.resolved_spec.spec)
        return backend_service_pb2.ValidateRunResponse()

    @refusing
    def StartRun(self, request, context):
        order = request.order
        if not order.run or not order.work_dir:
            raise Refusal("FIELD_INVALID", "order.run and order.work_dir must be given")
        self.check(order.resolved_spec.spec)
        with self.lock:  # the same start twice at once is one run
            if order.run not in self.runs:
                Path(order.work_dir).mkdir(parents=True, exist_ok=True)
                self.runs[order.run] = Run(order)
                self.runs[order.run].start()
        return backend_service_pb2.StartRunResponse(run=self.runs[order.run].shown)

    @refusing
    def GetRun(self, request, context):
        return backend_service_pb2.GetRunResponse(run=self.find(request.run).shown)

    @refusing
    def StopRun(self, request, context):
        run = self.find(request.run)
        run.asked = run.asked or request.mode
        run.join()
        return backend_service_pb2.StopRunResponse(run=run.shown)

    @refusing
    def SaveRun(self, request, context):
        raise Refusal("CAPABILITY_UNSUPPORTED", "This backend saves at its own times.")

    def StreamRunEvents(self, request, context):
        self.heard = time.monotonic()
        run = self.runs.get(request.run)
        if run is None:
            details = status("JOB_NOT_FOUND", f"No run '{request.run}' here.", code_pb2.Code.NOT_FOUND)
            context.set_trailing_metadata((("grpc-status-details-bin", details.SerializeToString()),))
            context.abort(grpc.StatusCode.NOT_FOUND, details.message)
        after = request.after_source_sequence
        while context.is_active():
            with run.changed:
                ended = run.shown.state == run_pb2.RUN_STATE_ENDED
                batch = run.events[after:]
                if not batch and not ended:
                    run.changed.wait(1.0)
                    continue
            if batch:
                after = batch[-1].source_sequence
                yield backend_service_pb2.StreamRunEventsResponse(events=batch)
            elif ended:
                return

    @refusing
    def AuditData(self, request, context):
        raise Refusal("CAPABILITY_UNSUPPORTED", "This backend reads no rows.")

    @refusing
    def StartEngine(self, request, context):
        raise Refusal("CAPABILITY_UNSUPPORTED", "This backend serves nothing.")

    @refusing
    def LoadAdapter(self, request, context):
        raise Refusal("CAPABILITY_UNSUPPORTED", "This backend serves nothing.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    worker, server = Worker(), grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    backend_service_pb2_grpc.add_BackendServiceServicer_to_server(worker, server)
    server.add_insecure_port(f"unix:{arguments.socket}")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server.start()
    while not stopping.wait(0.2):
        if time.monotonic() - worker.heard > arguments.lease_seconds:
            for run in worker.runs.values():  # nobody owns this worker: save, then end
                run.asked = run.asked or run_pb2.STOP_MODE_SAVE
                run.join()
            break
    os._exit(0)


if __name__ == "__main__":
    main()
