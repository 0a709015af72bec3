"""Which kernels are chosen, as a function of the device; number types and optimisers that depend on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trl_lab as lab

from tunefleet_trl.kernels import KernelFacts, choose_kernels
from tunefleet_trl.loading import FLASH, Hardware
from tunefleet_trl.muon import MuonWithAdamW, muon_groups
from tunefleet_trl.rank import TrlRank

AMPERE = KernelFacts(
    device="cuda", capability=(8, 0), installed=frozenset({"flash_attn", "liger_kernel"}), head_width=128
)


@pytest.mark.parametrize(
    ("changes", "attention", "is_liger", "words"),
    [
        ({}, FLASH, True, "FlashAttention 2, and so no padding; Liger"),
        ({"device": "cpu"}, "", False, "a processor has no"),
        ({"capability": (7, 5)}, "", True, "one of capability 7.5"),
        ({"dtype": "float32"}, "", True, "does not compute in float32"),
        ({"head_width": 512}, "", True, "at most 256 wide"),
        ({"takes_flash": False}, "", True, "this class of model does not take"),
        ({"installed": frozenset()}, "", False, "which is not installed; no Liger, which is not installed"),
        ({"method": "dpo"}, FLASH, False, "no Liger, but for sft"),
        ({"is_routed": True}, FLASH, False, "load of experts"),
    ],
)
def test_the_choice_follows_from_device_model_and_method(
    changes: dict[str, object], attention: str, is_liger: bool, words: str
) -> None:
    chosen = choose_kernels(replace(AMPERE, **changes))
    assert (chosen.attention, chosen.is_liger) == (attention, is_liger)
    assert words in chosen.why


def test_a_job_may_leave_it_to_the_library() -> None:
    chosen = choose_kernels(AMPERE, asked="library")
    assert (chosen.attention, chosen.is_liger) == ("", False)


def test_batches_without_padding_need_an_attention_that_reads_positions() -> None:
    assert Hardware(kind="cuda", dtype="bfloat16", attention=FLASH).is_padding_free
    assert not Hardware(kind="cpu", dtype="float32").is_padding_free


def test_half_precision_on_a_processor_is_float32_and_told(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=1)
    spec.train.dtype = "float16"
    data = [("train", lab.colours(tmp_path / "train.jsonl"))]
    context = lab.MemoryContext(lab.order(lab.resolved(base, data=data, spec=spec), tmp_path / "work"))
    TrlRank().run(context)
    assert [text for text in context.notices if "computes in float32" in text]


def test_muon_moves_hidden_matrices_and_adamw_the_rest() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(8, 4)
            self.hidden = torch.nn.Linear(4, 4)
            self.head = torch.nn.Linear(4, 8, bias=False)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.table

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

    torch.manual_seed(0)
    model = Model()
    groups = muon_groups(model, weight_decay=0.1)
    assert [group["is_muon"] for group in groups] == [True, False, False]
    assert [item.shape for item in groups[0]["params"]] == [(4, 4)]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    optimizer = MuonWithAdamW(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    before = model.hidden.weight.detach().clone()
    model.head(torch.tanh(model.hidden(model.table(torch.arange(8))))).square().mean().backward()
    optimizer.step()
    moved = (before * (1 - 0.1 * 0.1) - model.hidden.weight.detach()).double()
    # The step of Muon is orthogonal, up to what five steps of Newton and Schulz leave.
    singular = torch.linalg.svdvals(moved)
    assert singular.max() / singular.min() < 2
    keys = [set(optimizer.state[item]) for item in (model.hidden.weight, model.table.weight)]
    assert keys == [{"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}]
