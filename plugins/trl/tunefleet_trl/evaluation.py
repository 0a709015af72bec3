"""Score a base or an adapter: greedy answers to held-out prompts, against the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from tunefleet.backend.v1.run_pb2 import RunOutput, StopMode
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.evaluation import Generate, evaluate, wanted_metrics
from tunefleet_core.rendering import Renderer, load_tokenizer
from tunefleet_trl.learned_prompts import learned_prompt, prepended
from tunefleet_trl.loading import load_adapter, load_base, prepare_hardware

__all__ = ["evaluate_order"]


def evaluate_order(context: RunContext) -> RunOutput:
    """Run an evaluation order.

    Raises:
        RunStopped: the run was asked to stop; an evaluation keeps nothing half-done.
        TunefleetError: DATA_INVALID, BASE_INVALID, FIELD_INVALID.
    """
    spec = context.order.resolved_spec
    wanted_metrics(spec.spec.evaluate)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order, dtype="")
    renderer = Renderer(load_tokenizer(spec.base), spec.chat_template)

    def load() -> Generate:
        model = load_base(spec.base, hardware)
        if context.order.adapter_dir:
            model = load_adapter(model, context.order.adapter_dir)
        model.eval()

        def generate(prompts: Sequence[list[int]], most: int, stops: Sequence[int]) -> list[list[int]]:
            pad = renderer.tokenizer.pad_token_id
            return _generate(context, model, prompts, pad, most=most, stops=list(stops))

        return generate

    return evaluate(context, renderer, load)


@torch.inference_mode()
def _generate(
    context: RunContext, model: Any, prompts: Sequence[list[int]], pad: int, *, most: int, stops: list[int]
) -> list[list[int]]:
    """Return the new tokens of each prompt.

    Prompts are padded on the left, so that all continue at the same position.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    learned = learned_prompt(model)
    if learned is not None:
        model, inputs, width = model.get_base_model(), prepended(learned, model, ids, mask), 0
    else:
        inputs = {"input_ids": ids, "attention_mask": mask}
    config = GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=stops, pad_token_id=pad, use_cache=True
    )
    output = model.generate(
        **inputs,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_RunStop(context)]),
    )
    return [[int(token) for token in row] for row in output[:, width:].tolist()]


class _RunStop(StoppingCriteria):
    """Ends a generation at the next token when the run is asked to stop."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if self._context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
            raise RunStopped("stopped while it answered")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
