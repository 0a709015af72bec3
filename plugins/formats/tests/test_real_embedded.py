"""The embedded engine loads quantised checkpoints as they are stored, and answers from them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes", reason="needs the trl environment: torch, transformers, bitsandbytes")
pytest.importorskip("tunefleet_embedded", reason="needs the embedded engine, which shares that environment")

import torch
from record_bitsandbytes import FORMS, quantise
from tiny_base import build_base
from transformers import AutoModelForCausalLM

from tunefleet_core.catalog import FormatRegistry, read_base
from tunefleet_embedded.engine.model import load_base_model
from tunefleet_embedded.engine.options import parse_options
from tunefleet_formats.plugin import FORMATS
from tunefleet_trl.mxfp4 import write_mxfp4_folder

sys.path.append(str(Path(__file__).resolve().parents[2] / "families" / "tests"))
import family_lab  # the tiny models of the families

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


@pytest.mark.filterwarnings("ignore:MXFP4")
def test_the_engine_answers_from_the_published_layout_of_gpt_oss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = family_lab.MODELS["gpt_oss"]()
    whole.save_pretrained(tmp_path / "whole")
    for path in build_base(tmp_path / "other").glob("token*"):
        (tmp_path / "whole" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "packed").mkdir()
    write_mxfp4_folder(tmp_path / "whole", tmp_path / "packed")
    facts = read_base(tmp_path / "packed", formats=FormatRegistry(FORMATS))
    assert (facts.quantization.format, facts.quantization.carrier) == ("mxfp4", "mxfp4")
    options = ["--model", str(tmp_path / "packed"), "--port", "1", "--device", "cpu", "--dtype", "float32"]
    engine = load_base_model(parse_options(options)).model
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32)
    answered = logits(engine)
    torch.testing.assert_close(answered, logits(alone), atol=1e-4, rtol=1e-4)
    assert (answered - logits(whole.eval())).abs().max() > 1e-4  # it did not answer from whole weights


def test_what_is_said_to_be_proven_is_what_runs_here() -> None:
    here = ((item.name, item.engines.get("embedded")) for item in FORMATS)
    proven = {name for name, support in here if support and support.is_proven}
    assert proven == {"mxfp4", *(form.partition("-")[0] for form in FORMS)}
