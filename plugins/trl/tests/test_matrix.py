"""The cells of the matrix that this backend trains, run for real on a tiny model of each family.

With TUNEFLEET_RECORD_PROOF set, what passed is written to the file that the matrix reads:
a cell is proven by the test named there and by nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab
from safetensors.torch import load_file

from tunefleet.job.v1.resolved_pb2 import ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog import (
    FamilyRegistry,
    choose_template,
    read_base,
    select_target_modules,
    select_target_parameters,
)
from tunefleet_core.catalog.matrix import record
from tunefleet_core.data import file_digest
from tunefleet_families.plugin import FAMILIES
from tunefleet_trl.rank import TrlRank

sys.path.append(str(Path(__file__).resolve().parents[2] / "families" / "tests"))
import family_lab  # the tiny models of the families

QUICK = (("qwen3", "lora", ""),)
EXPERT_TYPES = (
    "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_5_moe_text", "llama4_text", "deepseek_v4",
)  # fmt: skip
TYPES = list(family_lab.MODELS)
CELLS = [
    *((name, "lora", "") for name in TYPES),
    *((name, "lora", "nf4") for name in TYPES),
    *(("qwen3", "lora", name) for name in ("fp4", "int8")),
    *((name, "full", "") for name in TYPES),
    *((name, adaptation, "") for name in TYPES for adaptation in ("rslora", "dora")),
    *((name, "expert_lora", "") for name in EXPERT_TYPES),
]


def _cases() -> list[Any]:
    return [
        pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow, id="-".join(filter(None, cell)))
        for cell in CELLS
    ]


@pytest.mark.parametrize(("model_type", "adaptation", "quantization"), _cases())
def test_two_steps_are_trained(
    model_type: str,
    adaptation: str,
    quantization: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    base = _base(model_type, tmp_path / "base")
    context = lab.MemoryContext(
        lab.order(_resolved(base, adaptation, quantization, tmp_path), tmp_path / "work")
    )
    TrlRank().run(context)
    written = {path.name for path in context.output.iterdir()}
    if adaptation == "full":
        assert "config.json" in written
    else:
        config = json.loads((context.output / "adapter_config.json").read_text())
        assert (config["use_dora"], config["use_rslora"]) == (adaptation == "dora", adaptation == "rslora")
        assert bool(config["target_parameters"]) is (adaptation == "expert_lora")
        weights = load_file(context.output / "adapter_model.safetensors")
        moved = [name for name, value in weights.items() if "lora_B" in name and value.abs().max() > 0]
        assert moved, "the second factor starts at zero, so training has moved it"
    losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
    assert len(losses) == 2
    node = request.node.nodeid.rpartition("plugins/")
    test = f"{node[1]}{node[2]}" if node[1] else f"plugins/trl/tests/{node[2]}"
    record("trained", "/".join(("trl", "sft", adaptation, quantization, model_type)), test)
    record("architectures", model_type, json.loads((base / "config.json").read_text())["architectures"][0])


def _base(model_type: str, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    family = FamilyRegistry(FAMILIES).for_model_type(model_type)
    family_lab.MODELS[model_type]().save_pretrained(folder)
    tokens = [*family_lab.special_tokens(family.chat_template), *family.stop_tokens]
    family_lab.build_tokenizer(tokens, bos="<bos-of-test>", eos=family.stop_tokens[0]).save_pretrained(folder)
    return folder


def _spec(adaptation: str, quantization: str) -> JobSpec:
    plain = adaptation in ("expert_lora", "lora")
    spec = lab.adapted_spec("lora" if plain else adaptation, steps=2, rank=4, dropout=0.0)
    spec.train.quantization = quantization
    if adaptation == "expert_lora":
        spec.train.adapter.lora.experts = True
    spec.train.max_length = 512
    return spec


def _resolved(base: Path, adaptation: str, quantization: str, folder: Path) -> ResolvedSpec:
    facts = read_base(base)
    family = FamilyRegistry(FAMILIES).for_model_type(facts.model_type)
    rows = lab.colours(folder / "train.jsonl")
    is_adapter = adaptation != "full"
    return ResolvedSpec(
        spec=_spec(adaptation, quantization),
        base=facts,
        chat_template=choose_template(facts, family, frozen_time_seconds=1_700_000_000).template,
        target_modules=select_target_modules(facts, family, []) if is_adapter else [],
        target_parameters=select_target_parameters(facts, family) if adaptation == "expert_lora" else [],
        data=[ResolvedData(role="train", path=str(rows), sha256=file_digest(rows), weight=1.0)],
    )
