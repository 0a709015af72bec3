"""Adapters go between PEFT and MLX with the same answers, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import train_lab as lab
import trl_side

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_mlx.adapter_files import mlx_to_peft, peft_to_mlx

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
MOST = 1e-3
"""Difference of logits that is allowed, in float32."""


def _mlx_logits(base: Path, adapter: Path) -> numpy.ndarray:
    """Answer with mlx-lm's own loader of adapters."""
    import mlx.core as mx
    import mlx_lm

    model = mlx_lm.load(str(base), adapter_path=str(adapter))[0]
    return numpy.array(model(mx.array([trl_side.PROMPT]))[0].astype(mx.float32))


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])  # the llama's embedding is its head too
def test_adapters_answer_alike_in_both_forms_and_back(bases: Path, tmp_path: Path, model_type: str) -> None:
    base = bases / model_type
    theirs = lab.trl_side("adapters", base, tmp_path)
    plain = _mlx_logits_of_base(base)
    back: list[Path] = []
    for kind in trl_side.KINDS:
        there, here = tmp_path / f"mlx-{kind}", tmp_path / "back" / kind
        there.mkdir()
        here.mkdir(parents=True)
        peft_to_mlx(tmp_path / kind, there, layers=2)
        logits = _mlx_logits(base, there)
        assert numpy.abs(logits - numpy.array(theirs[kind])).max() <= MOST, kind
        assert numpy.abs(logits - plain).max() > 100 * MOST, "an adapter that does nothing proves nothing"
        mlx_to_peft(there, here, BaseFacts(path=str(base)))
        back.append(here)
    for kind, logits in lab.trl_side("answers", base, *back).items():
        assert numpy.abs(numpy.array(logits) - numpy.array(theirs[kind])).max() <= MOST, kind


def _mlx_logits_of_base(base: Path) -> numpy.ndarray:
    import mlx.core as mx
    import mlx_lm

    return numpy.array(mlx_lm.load(str(base))[0](mx.array([trl_side.PROMPT]))[0].astype(mx.float32))


@pytest.mark.parametrize("adaptation", ["rslora", "mlx4"])
def test_what_mlx_trained_the_embedded_engine_serves_as_trained(
    bases: Path, tmp_path: Path, adaptation: str
) -> None:
    context = lab.run(lab.make_order(bases / "qwen3", tmp_path, lab.job(adaptation)))
    found = lab.trl_side("serve", bases / "qwen3", context.output)
    assert (found["tokens"], found["numbers"]) == (VERIFIED, VERIFIED), found
    assert found["to_tuned"] < found["to_base"] / 10


@pytest.fixture
def peft(bases: Path, tmp_path: Path) -> Path:
    """An adapter in PEFT's form."""
    return lab.run(lab.make_order(bases / "qwen3", tmp_path, lab.job("lora", steps=1))).output


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha_pattern", {"q_proj": 3}),
        ("rank_pattern", {"q_proj": 3}),
        ("modules_to_save", ["lm_head"]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("init_lora_weights", "pissa"),
        ("bias", "all"),
        ("something_of_tomorrow", True),
        ("peft_type", "IA3"),
    ],
)
def test_a_peft_adapter_that_mlx_cannot_do_is_refused_by_name(
    peft: Path, tmp_path: Path, field: str, value: Any
) -> None:
    path = peft / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(TunefleetError, match=str(value) if field == "peft_type" else field) as caught:
        peft_to_mlx(peft, tmp_path, layers=2)
    assert caught.value.reason is Reason.BASE_INVALID
    assert not (tmp_path / "adapters.safetensors").exists()


def test_an_adapter_of_mlx_on_stacked_experts_is_refused_by_name(peft: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    there, here = tmp_path / "mlx", tmp_path / "peft"
    there.mkdir()
    here.mkdir()
    peft_to_mlx(peft, there, layers=2)
    arrays = dict(mx.load(str(there / "adapters.safetensors")))
    arrays["model.layers.0.mlp.experts.lora_a"] = mx.zeros((4, 8, 16))
    (there / "adapters.safetensors").unlink()
    mx.save_safetensors(str(there / "adapters.safetensors"), arrays)
    with pytest.raises(TunefleetError, match=r"experts\.lora_a"):
        mlx_to_peft(there, here, BaseFacts(path="/base"))
