"""The record that training leaves for serving, but for the measuring itself: that is the backend's."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.parity import (
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TokensRecord,
    TrainServeContract,
    reference_prompts,
)
from tunefleet_core.rendering.renderer import RenderedRow, Renderer, TemplateRefusedError
from tunefleet_core.rendering.shown import reference_needs
from tunefleet_core.spec import effective_scale, neutral_alpha, written_rank

__all__ = ["adapter_record", "contract_record", "reference_prefixes"]

_PREFIXES = 12


def contract_record(
    spec: ResolvedSpec,
    renderer: Renderer,
    rows: Sequence[RenderedRow],
    *,
    dtype: str,
    numbers: Sequence[NumbersRecord],
) -> TrainServeContract:
    """Return the record to keep beside what was trained.

    Args:
        spec: What was run.
        renderer: Tokenizer and template of the run.
        rows: Rows that the reference prefixes were taken from.
        dtype: Number type that the model was measured in.
        numbers: What base and tuned model answer to `reference_prefixes(rows)`.
    """
    template = spec.chat_template
    return TrainServeContract(
        base_digest=spec.base.base_digest,
        tokenizer_digest=spec.base.tokenizer_digest,
        template=TemplateRecord(
            text=template.text,
            sha256=template.sha256,
            stop_token_ids=tuple(template.stop_token_ids),
            frozen_time_seconds=template.frozen_time_seconds,
        ),
        adapter=adapter_record(spec),
        precision=PrecisionRecord(dtype=dtype, quantization=spec.spec.train.quantization),
        tokens=_token_records(renderer, rows),
        numbers=tuple(numbers),
    )


def adapter_record(spec: ResolvedSpec) -> AdapterRecord | None:
    """Return what the contract keeps of the adapter; None for full fine-tuning."""
    if not spec.spec.train.HasField("adapter"):
        return None
    if spec.spec.train.adapter.HasField("prompt_tuning"):
        virtual = spec.spec.train.adapter.prompt_tuning.num_virtual_tokens
        return AdapterRecord(rank=0, alpha=0, effective_scale=1, target_modules=(), virtual_tokens=virtual)
    train, lora = spec.spec.train, spec.spec.train.adapter.lora
    alpha = lora.alpha if lora.HasField("alpha") else neutral_alpha(lora)
    return AdapterRecord(
        rank=written_rank(train),
        alpha=alpha * written_rank(train) / lora.rank,
        effective_scale=effective_scale(lora),
        target_modules=tuple(spec.target_modules),
        rslora=lora.rslora,
        dora=lora.dora,
        target_parameters=tuple(spec.target_parameters),
    )


def reference_prefixes(rows: Sequence[RenderedRow]) -> list[list[int]]:
    """Return up to 12 prompts, each the start of a row up to a trained token, always the same ones.

    Rows are taken evenly over the file; the cut moves from the first answer token on, so
    that both the beginning and the inside of answers are covered.
    """
    count = min(_PREFIXES, len(rows))
    prefixes: dict[tuple[int, ...], None] = {}
    for number in range(count):
        row = rows[number * len(rows) // count]
        trained = [position for position, is_trained in enumerate(row.mask) if is_trained and position]
        cut = trained[len(trained) * (number % 4) // 4]
        prefixes[tuple(row.input_ids[:cut])] = None
    return [list(prefix) for prefix in prefixes]


def _token_records(renderer: Renderer, rows: Sequence[RenderedRow]) -> tuple[TokensRecord, ...]:
    """Render the reference conversations that matter: those with tools if rows hold any."""
    records: list[TokensRecord] = []
    for prompt in reference_prompts(reference_needs(frozenset[str]().union(*(row.holds for row in rows)))):
        try:
            ids = renderer.prompt(prompt.messages, prompt.tools)
        except TemplateRefusedError:
            continue  # what the template refuses in training it refuses in serving
        records.append(
            TokensRecord(messages=prompt.messages, prompt_token_ids=tuple(ids), tools=prompt.tools)
        )
    return tuple(records)
