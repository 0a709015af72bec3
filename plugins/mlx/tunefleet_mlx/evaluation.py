"""Score a base or an adapter: greedy answers to held-out prompts, against the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import RunOutput, StopMode
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.evaluation import Generate, evaluate, wanted_metrics
from tunefleet_core.rendering import Renderer, load_tokenizer
from tunefleet_mlx.adaptation import load_adapter
from tunefleet_mlx.answering import likeliest_answer
from tunefleet_mlx.devices import prepare_hardware
from tunefleet_mlx.loading import load_base

__all__ = ["evaluate_order"]


def evaluate_order(context: RunContext) -> RunOutput:
    """Run an evaluation order. Prompts are answered one after the other.

    Raises:
        RunStopped: the run was asked to stop; an evaluation keeps nothing half-done.
        TunefleetError: DATA_INVALID, BASE_INVALID, FIELD_INVALID.
    """
    spec = context.order.resolved_spec
    wanted_metrics(spec.spec.evaluate)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order)

    def load() -> Generate:
        model = load_base(spec.base, hardware)
        if context.order.adapter_dir:
            load_adapter(model, Path(context.order.adapter_dir))
        model.eval()

        def generate(prompts: Sequence[list[int]], most: int, stops: Sequence[int]) -> list[list[int]]:
            answers: list[list[int]] = []
            for prompt in prompts:
                if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
                    raise RunStopped("stopped while it answered")
                answers.append(likeliest_answer(model, prompt, most_tokens=most, stops=set(stops)))
            return answers

        return generate

    return evaluate(context, Renderer(load_tokenizer(spec.base), spec.chat_template), load)
