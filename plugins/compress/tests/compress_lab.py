"""Tiny models that have learned a task, with their record, and orders to export them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ChatTemplate, ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_compress.measuring import measure
from tunefleet_core.catalog import read_base
from tunefleet_core.data import file_digest
from tunefleet_core.parity import (
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TrainServeContract,
    write_contract,
)
from tunefleet_core.testing.conformance import tiny_base

STEPS = 60
_STOP_ID = 258


def trained_model(folder: Path, *, model_type: str = "qwen3", hidden: int = 128) -> Path:
    """Write a whole model that has learned the colours, its record, and `rows.jsonl` beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    whole = tiny_base.write_base(folder / "whole")
    rows = tiny_base.write_rows(folder / "rows.jsonl")
    tokenizer: Any = AutoTokenizer.from_pretrained(whole)
    shape: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 512,
        "eos_token_id": _STOP_ID,
        "pad_token_id": 256,
        "bos_token_id": None,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape))
    chats = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    ids: list[list[int]] = [
        list(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"])
        for chat in chats[:4]
    ]
    prompts = [row[:cut] for row in ids for cut in (len(row) - 6, len(row) - 3)]
    before = measure(model, prompts)
    _learn(model, ids)
    model.save_pretrained(whole)
    numbers = tuple(
        NumbersRecord(prompt_token_ids=tuple(prompt), base=base, tuned=tuned)
        for prompt, base, tuned in zip(prompts, before, measure(model, prompts), strict=True)
    )
    template = TemplateRecord(
        text=tiny_base.CHAT_TEMPLATE, sha256="t" * 64, stop_token_ids=(_STOP_ID,), frozen_time_seconds=0
    )
    contract = TrainServeContract(
        base_digest="b" * 64,
        tokenizer_digest="k" * 64,
        template=template,
        adapter=None,
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(),
        numbers=numbers,
    )
    write_contract(contract, whole)
    return whole


def _learn(model: Any, rows: list[list[int]]) -> None:
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(STEPS):
        ids = torch.tensor([rows[step % len(rows)]])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def order(whole: Path, work_dir: Path, form: str, *, variant: str = "", rows: int = 8) -> RunOrder:
    """Return an order to export a model in a format."""
    spec = JobSpec(name="small", backend="compress")
    spec.export.model.model = "models/tiny"
    spec.export.quantize.format = form
    spec.export.quantize.variant = variant
    spec.export.quantize.calibration_rows = rows
    source = whole.parent / "rows.jsonl"
    resolved = ResolvedSpec(
        spec=spec,
        base=read_base(whole),
        chat_template=ChatTemplate(text=tiny_base.CHAT_TEMPLATE, stop_token_ids=[_STOP_ID]),
        data=[ResolvedData(role="train", path=str(source), sha256=file_digest(source), rows=16, weight=1.0)],
    )
    return RunOrder(run="small-1", attempt=1, resolved_spec=resolved, work_dir=str(work_dir), threads=1)
