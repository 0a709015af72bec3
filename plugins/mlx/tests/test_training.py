"""Training learns, leaves what PEFT reads, and steps as trl does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import train_lab as lab

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet_core.catalog.matrix import record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import judge_numbers, read_contract
from tunefleet_mlx.rank import MlxRank


@pytest.mark.parametrize("adaptation", lab.ADAPTATIONS)
def test_every_adaptation_learns_and_keeps_a_contract(
    bases: Path, tmp_path: Path, adaptation: str, request: pytest.FixtureRequest
) -> None:
    """What passed is written to the file that the matrix reads, with TUNEFLEET_RECORD_PROOF set."""
    order = lab.make_order(bases / "qwen3", tmp_path, lab.job(adaptation))
    context = lab.MemoryContext(order)
    output = MlxRank().run(context)
    told = lab.losses(context)
    assert len(told) == 12
    assert told[-1] < told[0] / 2
    validated = [item.validation_loss for item in context.told if item.HasField("validation_loss")]
    assert validated[-1] < validated[0]
    (preflight,) = context.preflights
    assert preflight.checkpoint_bytes > 0
    is_full = adaptation == "full"
    kinds = ArtifactKind.ARTIFACT_KIND_MODEL, ArtifactKind.ARTIFACT_KIND_ADAPTER
    assert output.kind == kinds[not is_full]
    contract = read_contract(context.output)
    assert judge_numbers(contract, [kept.tuned.as_mapping() for kept in contract.numbers]).is_proof
    assert contract.tokens
    assert bool(contract.unquantized) is adaptation.startswith("mlx")
    assert {path.stat().st_mode & 0o777 for path in context.output.iterdir()} == {0o644}
    is_rounded = adaptation.startswith("mlx")
    cell = ("mlx", "sft", "lora" if is_rounded else adaptation, adaptation if is_rounded else "", "qwen3")
    record("trained", "/".join(cell), f"plugins/mlx/tests/{request.node.nodeid.rpartition('/')[2]}")


def test_a_whole_model_has_the_files_of_its_base_and_the_numbers_of_its_record(
    bases: Path, tmp_path: Path
) -> None:
    import mlx_lm

    from tunefleet_mlx.reference_numbers import top_logprobs

    context = lab.run(lab.make_order(bases / "llama", tmp_path, lab.job("full")))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (context.output / name).read_bytes() == (bases / "llama" / name).read_bytes()
    contract = read_contract(context.output)
    prompts = [kept.prompt_token_ids for kept in contract.numbers]
    loaded = top_logprobs(mlx_lm.load(str(context.output))[0], prompts)
    for kept, answer in zip(contract.numbers, loaded, strict=True):
        assert answer.logprobs == pytest.approx(kept.tuned.logprobs, abs=1e-4)


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])
def test_the_losses_are_those_of_trl(bases: Path, tmp_path: Path, model_type: str) -> None:
    """The same rows in the same batches at the same rates: the libraries' sums alone differ."""
    ours = lab.make_order(bases / model_type, tmp_path, lab.job("full", steps=50))
    theirs = tmp_path / "theirs"
    theirs.write_bytes(lab.as_trl(ours, tmp_path / "trl").SerializeToString())
    trl = lab.trl_side("train", theirs)
    mlx = [[item.loss, item.grad_norm] for item in lab.run(ours).told if item.HasField("loss")]
    assert len(mlx) == len(trl) == 50
    assert mlx[0] == pytest.approx(trl[0], rel=1e-4)
    assert mlx[9] == pytest.approx(trl[9], rel=1e-2), "another order of rows shows here"
    assert mlx[49][0] == pytest.approx(trl[49][0], rel=2e-2)


def test_an_adapter_begins_at_the_loss_of_trl(bases: Path, tmp_path: Path) -> None:
    """Later steps differ: the libraries draw the first factor from generators of their own."""
    ours = lab.make_order(bases / "qwen3", tmp_path, lab.job("lora", steps=1))
    theirs = tmp_path / "theirs"
    theirs.write_bytes(lab.as_trl(ours, tmp_path / "trl").SerializeToString())
    assert lab.losses(lab.run(ours)) == pytest.approx([lab.trl_side("train", theirs)[0][0]], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "capability"),
    [
        (lambda train: setattr(train, "quantization", "nf4"), "TRAINED_FORMATS"),
        (lambda train: setattr(train.method.sft, "packing", True), "PACKING"),
        (lambda train: train.method.dpo.SetInParent(), "METHODS"),
    ],
)
def test_what_it_does_not_do_is_refused_by_name(
    bases: Path, tmp_path: Path, change: object, capability: str
) -> None:
    spec = lab.job("lora")
    change(spec.train)  # type: ignore[operator]
    with pytest.raises(TunefleetError) as caught:
        lab.run(lab.make_order(bases / "qwen3", tmp_path, spec))
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert caught.value.metadata["capability"] == capability


def test_a_base_whose_files_are_damaged_is_refused(bases: Path, tmp_path: Path) -> None:
    order = lab.make_order(bases / "qwen3", tmp_path, lab.job("lora"))
    broken = tmp_path / "qwen3"
    broken.mkdir()
    for file in (bases / "qwen3").iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    order.resolved_spec.base.path = str(broken)
    with pytest.raises(TunefleetError) as caught:
        lab.run(order)
    assert caught.value.reason is Reason.BASE_INVALID


def test_an_adapter_names_its_base_and_scale(bases: Path, tmp_path: Path) -> None:
    context = lab.run(lab.make_order(bases / "qwen3", tmp_path, lab.job("rslora", steps=1)))
    config = json.loads((context.output / "adapter_config.json").read_text())
    assert config["use_rslora"]
    assert config["lora_alpha"] == pytest.approx(8**0.5)
    assert config["base_model_name_or_path"] == str(bases / "qwen3")


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_activations_that_are_computed_again_change_nothing(
    bases: Path, tmp_path: Path, adaptation: str
) -> None:
    """In a process of its own: the library puts it on the class of the blocks, for good."""
    plain = lab.job(adaptation, steps=4)
    again = lab.job(adaptation, steps=4)
    again.train.gradient_checkpointing = True
    for folder in ("plain", "again"):
        (tmp_path / folder).mkdir()
    kept = lab.run(lab.make_order(bases / "llama", tmp_path / "plain", plain))
    order = lab.make_order(bases / "llama", tmp_path / "again", again)
    lab.run_apart(order, tmp_path / "order")
    name = "model.safetensors" if adaptation == "full" else "adapter_model.safetensors"
    assert (lab.MemoryContext(order).output / name).read_bytes() == (kept.output / name).read_bytes()
