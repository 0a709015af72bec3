"""The embedded engine loads checkpoints of bitsandbytes as they are stored, and answers from them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes", reason="needs the trl environment: torch, transformers, bitsandbytes")
pytest.importorskip("tunefleet_embedded", reason="needs the embedded engine, which shares that environment")

import torch
from record_bitsandbytes import FORMS, quantise
from tiny_base import build_base
from transformers import AutoModelForCausalLM

from tunefleet_embedded.engine.model import load_base_model
from tunefleet_embedded.engine.options import parse_options
from tunefleet_formats.plugin import FORMATS

pytestmark = pytest.mark.backend
IDS = torch.arange(20).unsqueeze(0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_engine_answers_from_the_quantised_weights(base: Path, tmp_path: Path, form: str) -> None:
    folder = quantise(base, tmp_path / form, FORMS[form])
    for path in base.glob("token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    options = ["--model", str(folder), "--port", "1", "--device", "cpu", "--dtype", "float32"]
    engine = load_base_model(parse_options(options)).model
    layer = engine.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == ("Linear8bitLt" if form == "int8" else "Linear4bit")
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    answered = logits(engine)
    torch.testing.assert_close(answered, logits(alone), atol=1e-4, rtol=1e-4)
    assert (answered - logits(whole)).abs().max() > 1e-4  # it did not answer from whole weights


def test_what_is_said_to_be_proven_is_what_runs_here() -> None:
    proven = {item.name for item in FORMATS for support in item.engines.values() if support.is_proven}
    assert proven == {form.partition("-")[0] for form in FORMS}
