"""Training that learns nothing, exactly.

The state is a hash chain: `state(n) = sha256(seed, state(n - 1), n)`. A run that
was killed and resumed ends in the state of a run that was not, or something
lost or repeated a step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from google.protobuf import json_format

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOrder, RunOutput, StopMode
from tunefleet.job.v1.event_pb2 import Metrics, Preflight, RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["EchoRank", "final_state"]

DEFAULT_STEPS = 20
_STATE_FILE = "state.json"
_NAP_SECONDS = 0.02  # how often a waiting run looks whether it should stop
_STUBBORN_CHILD = (
    "import os,signal,time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
)


def final_state(seed: int, steps: int) -> str:
    """Return the state after `steps` steps, for tests to compare with."""
    state = ""
    for step in range(1, steps + 1):
        state = _advance(seed, state, step)
    return state


class EchoRank:
    """The rank of the echo backend."""

    def warm(self) -> None:
        """There is nothing to import."""

    def audit(self, order: AuditOrder) -> AuditResult:
        """Not declared as a capability, so never asked."""
        raise TunefleetError(Reason.CAPABILITY_UNSUPPORTED, "Backend 'echo' does not read rows.")

    def run(self, context: RunContext) -> RunOutput:
        """Train, or merge what was trained."""
        if context.order.resolved_spec.spec.HasField("export"):
            return _export(context)
        return self._train(context)

    def _train(self, context: RunContext) -> RunOutput:
        """Extend the chain step by step, with checkpoints on the way."""
        options = _Options(context.order)
        if options.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen([sys.executable, "-c", _STUBBORN_CHILD])
        context.enter(RunPhase.RUN_PHASE_LOADING)
        step, state = _resume(context.order)
        saved = step
        _pause(context, options.load_seconds)
        if options.preflight and not context.order.resume_from:
            context.enter(RunPhase.RUN_PHASE_PREFLIGHT)
            context.preflight(Preflight(longest_row_tokens=1, answer="echo"))
        context.enter(RunPhase.RUN_PHASE_WORKING)
        while step < options.steps:
            try:
                _pause(context, options.step_seconds)
            except RunStopped:
                if context.stop_requested() == StopMode.STOP_MODE_SAVE and step > saved:
                    _save(context, options, step, state)
                raise
            step += 1
            if step == options.exit_at_step:
                os._exit(9)
            if step == options.fail_at_step:
                raise TunefleetError(Reason.BACKEND_FAILED, f"Told to fail at step {step}.")
            state = _advance(options.seed, state, step)
            context.metrics(
                Metrics(
                    step=step,
                    total_steps=options.steps,
                    loss=1.0 / (step + 1),
                    learning_rate=1e-3,
                    epoch=step / options.steps,
                )
            )
            print(f"step {step} of {options.steps}", flush=True)
            is_due = step % options.every_steps == 0 or context.save_requested()
            if is_due and step < options.steps:
                _save(context, options, step, state)
                saved = step
        with context.writing_output() as folder:
            _write_state(folder, step, state, 0)
            if options.merge:
                _write_merged(folder, state)
                return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL, step=step)
            config = {"peft_type": "ECHO", "state": state, "refuses": options.refuses}
            (folder / "adapter_config.json").write_text(json.dumps(config))
        return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_ADAPTER, step=step)


class _Options:
    """The spec's values that matter here, with defaults."""

    def __init__(self, order: RunOrder) -> None:
        spec = order.resolved_spec.spec
        given = json_format.MessageToDict(spec.backend_options)
        self.seed = int(spec.train.seed)
        self.steps = int(spec.train.optim.max_steps) or DEFAULT_STEPS
        self.every_steps = int(spec.train.checkpoint.every_steps) or 5
        self.step_seconds = float(given.get("step_seconds", 0.01))
        self.load_seconds = float(given.get("load_seconds", 0))
        self.save_seconds = float(given.get("save_seconds", 0))
        self.checkpoint_bytes = int(given.get("checkpoint_bytes", 0))
        self.fail_at_step = int(given.get("fail_at_step", 0))
        self.exit_at_step = int(given.get("exit_at_step", 0))
        self.stubborn = bool(given.get("stubborn", False))
        self.refuses = bool(given.get("refuses", False))
        self.preflight = spec.train.preflight or not spec.train.HasField("preflight")
        self.merge = spec.train.merge


def _export(context: RunContext) -> RunOutput:
    """Write a model whose state follows from the adapter's: merging twice gives the same bytes."""
    options = _Options(context.order)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    _pause(context, options.load_seconds)
    source = Path(context.order.adapter_dir) / _STATE_FILE
    if not context.order.adapter_dir or not source.is_file():
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"'{context.order.adapter_dir}' is no adapter of the echo backend.",
            hint="Export an adapter that this backend trained.",
        )
    state = str(json.loads(source.read_text())["state"])
    with context.writing_output() as folder:
        _pause(context, options.save_seconds)
        _write_merged(folder, state)
    context.metrics(Metrics(step=1, total_steps=1))
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def _write_merged(folder: Path, state: str) -> None:
    merged = hashlib.sha256(f"merged:{state}".encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"model_type": "echo", "state": merged}))


def _advance(seed: int, state: str, step: int) -> str:
    return hashlib.sha256(f"{seed}:{state}:{step}".encode()).hexdigest()


def _resume(order: RunOrder) -> tuple[int, str]:
    if not order.resume_from:
        return 0, ""
    content = json.loads((Path(order.resume_from) / _STATE_FILE).read_text())
    return int(content["step"]), str(content["state"])


def _save(context: RunContext, options: _Options, step: int, state: str) -> None:
    with context.checkpoint(step) as folder:
        _pause(context, options.save_seconds, until=StopMode.STOP_MODE_CANCEL)
        _write_state(folder, step, state, options.checkpoint_bytes)


def _write_state(folder: Path, step: int, state: str, ballast_bytes: int) -> None:
    (folder / _STATE_FILE).write_text(json.dumps({"step": step, "state": state}))
    if ballast_bytes:
        with (folder / "ballast.bin").open("wb") as stream:
            stream.write(bytes([step % 256]) * ballast_bytes)


def _pause(
    context: RunContext,
    seconds: float,
    *,
    until: StopMode.ValueType | None = None,
) -> None:
    """Wait, and end the run where it was asked to stop: in any mode, or in one.

    Who calls saves what there is to keep.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = context.stop_requested()
        if asked == until or (until is None and asked != StopMode.STOP_MODE_UNSPECIFIED):
            raise RunStopped
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(_NAP_SECONDS, left))
