"""Types of base whose classes TRL's loss does not fit unaided: they are trained, and on the right loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet_trl.library_gaps import close_library_gaps
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.rank import TrlRank

SHAPES: dict[str, dict[str, Any]] = {
    "llama4_text": {
        "intermediate_size_mlp": 128,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "interleave_moe_layer_step": 1,
    },
    "deepseek_v4": {
        "num_hidden_layers": 3,
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "q_lora_rank": 32,
        "o_lora_rank": 16,
        "o_groups": 2,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 4,
        "sliding_window": 16,
        "hc_mult": 2,
    },
}


@pytest.fixture(params=sorted(SHAPES))
def model_type(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def base(model_type: str, tmp_path: Path) -> Path:
    shape = {name: value for name, value in SHAPES[model_type].items()}
    return lab.build_base(tmp_path / "base", model_type=model_type, **shape)


def test_an_adapter_is_trained(model_type: str, base: Path, tmp_path: Path, rank: TrlRank) -> None:
    data = lab.colours(tmp_path / "train.jsonl")
    order = lab.train_spec(steps=4, learning_rate=1e-2, dropout=0.0)
    spec = lab.resolved(base, model_type=model_type, data=[("train", data)], spec=order)
    context = lab.MemoryContext(lab.order(spec, tmp_path / "work"))
    output = rank.run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_ADAPTER
    losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
    assert losses[-1] < losses[0]


def test_the_loss_is_that_of_the_models_own_class(model_type: str, base: Path) -> None:
    from trl.trainer.utils import add_fused_lm_head

    facts = lab.read_base(base)
    model = load_base(facts, Hardware(kind="cpu", dtype="float32")).eval()
    model.config.get_text_config().output_router_logits = False
    ids = torch.randint(3, 200, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = model(input_ids=ids, labels=ids, use_cache=False).loss
        add_fused_lm_head(model)
        fused = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
    assert fused.item() == pytest.approx(own.item(), abs=1e-5)


def test_what_was_mapped_is_not_saved(model_type: str, base: Path, tmp_path: Path) -> None:
    model = load_base(lab.read_base(base), Hardware(kind="cpu", dtype="float32"))
    close_library_gaps(model)  # a second time does no harm
    assert model.base_model is not model
    assert model.config.num_experts == 4
    model.save_pretrained(tmp_path / "saved")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.slow
def test_a_base_that_the_library_loads_beside_the_model_is_mended_too(
    tmp_path: Path, rank: TrlRank, request: pytest.FixtureRequest
) -> None:
    """Trained in full by reward, a model has a base beside it that TRL loads from its folder."""
    base = lab.build_base(tmp_path / "base", model_type="llama4_text", **SHAPES["llama4_text"])
    spec = lab.adapted_spec("full", steps=2, micro_batch_size=2, batch_size=4)
    options = spec.train.method.grpo
    options.num_generations, options.max_completion_length, options.beta = 4, 4, 0.01
    options.rewards.add(name="regex").options["pattern"] = "[a-m]"
    rows = lab.write_rows(tmp_path / "train.jsonl", [{"prompt": word} for word, _ in lab.PAIRS])
    resolved = lab.resolved(base, model_type="llama4_text", data=[("train", rows)], spec=spec)
    context = lab.MemoryContext(lab.order(resolved, tmp_path / "work"))
    output = rank.run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    first = next(metrics for metrics in context.told if metrics.HasField("loss"))
    assert first.extra["kl"] == pytest.approx(0, abs=1e-4), "it starts as the base beside it"
    lab.record_training(request, "grpo", "full", model_type="llama4_text")
