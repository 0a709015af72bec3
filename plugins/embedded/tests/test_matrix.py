"""The cells of the matrix that this engine serves, run for real on a tiny model of each family.

The engine answers as transformers and PEFT do on the same folder, for the base and for three
adapters at once. With TUNEFLEET_RECORD_PROOF set, what passed is written to the file that
the matrix reads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import reference
from asking import greedy_ids
from forked_engine import ForkedEngine
from tiny_models import CHAT_TEMPLATE, make_adapter, make_prompt
from tunefleet_core.catalog import Family, FamilyRegistry, read_base, select_target_modules
from tunefleet_core.catalog.matrix import ENGINES, record

sys.path.append(str(Path(__file__).resolve().parents[2] / "families" / "tests"))
import family_lab  # the tiny models of the families
from tunefleet_families.plugin import FAMILIES

QUICK = ("qwen3",)
REFUSED = (*ENGINES["embedded"].fails, *ENGINES["embedded"].fails_adapters)
"""Families that the matrix says this engine does not serve, or takes no adapters on."""
PROMPT = [7, 8, 9, 10]


def _cases(*, refused: bool) -> list[Any]:
    names = [name for name in family_lab.MODELS if (_family(name).name in REFUSED) is refused]
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in names]


def _family(model_type: str) -> Family:
    return FamilyRegistry(FAMILIES).for_model_type(model_type)


@pytest.mark.parametrize("model_type", _cases(refused=False))
def test_it_is_served_as_the_library_computes_it(
    model_type: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base, targets = _base(model_type, tmp_path / "base")
    plain = make_adapter(base, tmp_path / "plain", seed=1, r=8, lora_alpha=16, target_modules=targets)
    stable = make_adapter(
        base, tmp_path / "stable", seed=2, r=16, lora_alpha=8, use_rslora=True, target_modules=targets
    )
    served = {"base": (None, "full"), "plain": (plain, "lora"), "stable": (stable, "rslora")}
    if not _family(model_type).reads_ids:
        served["learned"] = (make_prompt(base, tmp_path / "learned", seed=3), "prompt_tuning")
    with ForkedEngine(base, "--served-name", "base") as engine:
        for name, (folder, _) in served.items():
            assert folder is None or engine.load(name, folder).status == 200
        answers = {name: greedy_ids(engine.client(), name, PROMPT, 6) for name in served}
    expected = {name: reference.greedy(base, folder, PROMPT, 6) for name, (folder, _) in served.items()}
    assert answers == expected
    assert len({tuple(answer) for answer in answers.values()}) > 1, "the adapters are felt"
    for _, adaptation in served.values():
        _record(adaptation, model_type, request)


@pytest.mark.parametrize("model_type", _cases(refused=True))
def test_what_the_matrix_refuses_the_engine_refuses_too(
    model_type: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base, targets = _base(model_type, tmp_path / "base")
    if _family(model_type).name in ENGINES["embedded"].fails:
        with pytest.raises(RuntimeError, match="has layers of type"), ForkedEngine(base):
            pass
        return
    adapter = make_adapter(base, tmp_path / "plain", seed=1, r=8, target_modules=targets)
    with ForkedEngine(base, "--served-name", "base") as engine:
        assert greedy_ids(engine.client(), "base", PROMPT, 6) == reference.greedy(base, None, PROMPT, 6)
        assert engine.load("plain", adapter).status == 400
    _record("full", model_type, request)


def _record(adaptation: str, model_type: str, request: pytest.FixtureRequest) -> None:
    test = f"plugins/embedded/tests/{Path(__file__).name}::{request.node.name}"
    record("served", f"embedded/{adaptation}/{model_type}", test)


def _base(model_type: str, folder: Path) -> tuple[Path, list[str]]:
    import torch

    torch.manual_seed(0)
    family = _family(model_type)
    model = family_lab.MODELS[model_type]()
    for value in model.parameters():  # the usual 0.02 makes all tokens nearly equal
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.2)
    model.save_pretrained(folder)
    tokens = [*family_lab.special_tokens(family.chat_template), *family.stop_tokens]
    tokenizer = family_lab.build_tokenizer(tokens, bos="<bos-of-test>", eos=family.stop_tokens[0])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder, select_target_modules(read_base(folder), family, [])
