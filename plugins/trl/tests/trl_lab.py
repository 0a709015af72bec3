"""Tiny random models, rows, orders and a run context in memory. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.matrix import record
from tunefleet_core.catalog.registry import FamilyRegistry
from tunefleet_core.catalog.targets import select_target_modules, select_target_parameters
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.data import file_digest
from tunefleet_core.testing.memory_context import MemoryContext
from tunefleet_families.plugin import FAMILIES

if TYPE_CHECKING:  # scripts that make models for other tests run where there is no pytest
    import pytest

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
HARMONY_TOKENS = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
PAIRS = (("red", "rot"), ("blue", "blau"), ("green", "gruen"), ("white", "weiss"))


def build_base(folder: Path, *, model_type: str = "qwen3", seed: int = 0, **config: Any) -> Path:
    """Write a two-layer model with random weights and a byte-level tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = build_tokenizer(HARMONY_TOKENS if model_type == "gpt_oss" else ())
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    if model_type == "qwen3_moe":
        shape |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    if model_type in ("gpt_oss", "mixtral"):
        shape |= {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64}
    shape |= config
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(further: Sequence[str] = ()) -> Any:
    """Return a byte-level tokenizer without merges: one token per byte, and the special ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in (*SPECIAL_TOKENS, *further)])
    core.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin_of_text|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def chat(question: str, answer: str) -> dict[str, Any]:
    """Return a row with one question and one answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    """Write rows as JSONL; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def colours(path: Path, *, copies: int = 2) -> Path:
    """Write the small task: the German word for a colour."""
    return write_rows(path, [chat(question, answer) for question, answer in PAIRS] * copies)


def resolved(
    base: Path, *, model_type: str = "qwen3", data: Sequence[tuple[str, Path]], spec: JobSpec
) -> ResolvedSpec:
    """Resolve a spec as the coordinator would."""
    facts = read_base(base)
    family = FamilyRegistry(FAMILIES).for_model_type(model_type)
    experts = spec.train.adapter.lora.experts
    return ResolvedSpec(
        spec=spec,
        base=facts,
        chat_template=choose_template(facts, family, frozen_time_seconds=1_700_000_000).template,
        target_modules=select_target_modules(facts, family, []),
        target_parameters=select_target_parameters(facts, family) if experts else (),
        data=[
            ResolvedData(role=role, path=str(path), sha256=file_digest(path), weight=1.0)
            for role, path in data
        ],
    )


def train_spec(
    *, rank: int = 8, alpha: float = 16, steps: int = 12, dropout: float = 0.05, **optim: Any
) -> JobSpec:
    """Return a training spec with every default filled in."""
    spec = JobSpec(name="tiny", backend="trl")
    train = spec.train
    train.method.sft.packing = False
    train.adapter.lora.rank = rank
    train.adapter.lora.alpha = alpha
    train.adapter.lora.dropout = dropout
    values = {
        "learning_rate": 1e-2, "batch_size": 4, "micro_batch_size": 2, "max_steps": steps,
        "warmup_ratio": 0.1, "max_grad_norm": 1.0, "schedule": "cosine",
    }  # fmt: skip
    for name, value in {**values, **optim}.items():
        setattr(train.optim, name, value)
    train.max_length = 256
    train.over_long = "drop"
    train.seed = 7
    train.checkpoint.every_steps = 1000
    train.loss_on = "assistant"
    return spec


ADAPTATIONS = ("lora", "rslora", "dora", "qlora", "qdora", "full")


def adapted_spec(adaptation: str, *, rank: int = 8, **values: Any) -> JobSpec:
    """Return a training spec of one way of adapting a model, at scale 1, with every default filled in."""
    learning_rate = 2e-3 if adaptation == "full" else 2e-2
    spec = train_spec(rank=rank, alpha=rank, **{"learning_rate": learning_rate, **values})
    if adaptation == "full":
        spec.train.ClearField("adapter")
        return spec
    lora = spec.train.adapter.lora
    if adaptation == "rslora":
        lora.rslora, lora.alpha = True, rank**0.5
    lora.dora = "dora" in adaptation
    spec.train.quantization = "nf4" if adaptation.startswith("q") else ""
    return spec


def record_training(
    request: pytest.FixtureRequest, method: str, adaptation: str, *, form: str = "", model_type: str = "qwen3"
) -> None:
    """Write that the test at hand trained a combination, if the proofs of the matrix are made again."""
    key = "/".join(("trl", method, adaptation, form, model_type))
    record("trained", key, f"plugins/trl/tests/{request.path.name}::{request.node.name}")


def evaluate_spec(**values: Any) -> JobSpec:
    """Return an evaluation spec."""
    spec = JobSpec(name="score", backend="trl")
    spec.evaluate.max_new_tokens = 16
    spec.evaluate.batch_size = 3
    for name, value in values.items():
        if name == "metrics":
            spec.evaluate.metrics.extend(value)
        else:
            setattr(spec.evaluate, name, value)
    return spec


def order(spec: ResolvedSpec, work_dir: Path, **fields: Any) -> RunOrder:
    """Return an order for a run in a folder."""
    adapter_dir = fields.get("adapter_dir")
    if adapter_dir:
        spec.adapter.CopyFrom(ResolvedAdapter(model="models/tiny"))
    return RunOrder(
        run="tiny-1", attempt=1, resolved_spec=spec, work_dir=str(work_dir), device_ids=["cpu-0"], **fields
    )


def run_colours(
    base: Path,
    folder: Path,
    spec: JobSpec,
    *,
    words: Sequence[tuple[str, str]] = PAIRS,
    model_type: str = "qwen3",
) -> MemoryContext:
    """Train on the small task and return the finished run."""
    from tunefleet_trl.rank import TrlRank

    train = write_rows(folder / "train.jsonl", [chat(*pair) for pair in words] * 4)
    validation = write_rows(folder / "validation.jsonl", [chat(*pair) for pair in words])
    data = [("train", train), ("validation", validation)]
    resolved_spec = resolved(base, model_type=model_type, data=data, spec=spec)
    context = MemoryContext(order(resolved_spec, folder / "work"))
    TrlRank().run(context)
    return context
