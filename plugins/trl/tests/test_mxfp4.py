"""GPT-OSS as it is published, in MXFP4: read, trained with its experts, merged, written back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trl_lab as lab
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import RunStopped, training_scope
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.matrix import proof_record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_trl import export_mxfp4
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.mxfp4 import quantize_experts, write_mxfp4_folder
from tunefleet_trl.plugin import tunefleet_backends
from tunefleet_trl.rank import TrlRank
from tunefleet_trl.reference_numbers import measure

CPU = Hardware(kind="cpu", dtype="float32")
VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
RANDOM = torch.Generator().manual_seed(5)


def _pack_as_published(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write experts (experts, inputs, outputs) as the published files hold them, number by number.

    A writer of the test's own, slow and plain: largest exponent that cuts nothing off, nearest
    value. It must not share a line with the one that is tested.
    """
    experts, inputs, outputs = weight.shape
    blocks = torch.zeros(experts, outputs, inputs // 32, 16, dtype=torch.uint8)
    scales = torch.zeros(experts, outputs, inputs // 32, dtype=torch.uint8)
    for expert in range(experts):
        for out in range(outputs):
            for block in range(inputs // 32):
                numbers = weight[expert, 32 * block : 32 * block + 32, out]
                exponent = int(torch.ceil(torch.log2(numbers.abs().max() / 6)))
                codes = (numbers[:, None] / 2.0**exponent - VALUES).abs().argmin(dim=1)
                scales[expert, out, block] = exponent + 127
                blocks[expert, out, block] = (codes[0::2] + 16 * codes[1::2]).to(torch.uint8)
    return blocks, scales


def _published_base(folder: Path) -> Path:
    """Write a tiny GPT-OSS in bfloat16 whose experts are MXFP4, in the published layout."""
    lab.build_base(folder, model_type="gpt_oss")
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = _pack_as_published(tensor)
        else:
            tensors[name] = tensor.to(torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _spec(*, steps: int = 30, experts: bool = True) -> lab.JobSpec:
    spec = lab.train_spec(rank=8, alpha=8, steps=steps, dropout=0.0, learning_rate=2e-2)
    spec.train.adapter.lora.experts = experts
    spec.train.max_length = 512
    return spec


@pytest.fixture(scope="module")
def published(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in the published layout."""
    return _published_base(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def run(published: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """A finished run on it, experts included."""
    return lab.run_colours(published, tmp_path_factory.mktemp("run"), _spec(), model_type="gpt_oss")


def _order(run: lab.MemoryContext, folder: Path, *, form: str = "mxfp4", **fields: str) -> lab.RunOrder:
    spec = JobSpec(name="rounded", backend="trl")
    spec.export.model.model = "models/tiny"
    spec.export.quantize.format = form
    trained = run.order.resolved_spec
    resolved = ResolvedSpec(spec=spec, base=trained.base, chat_template=trained.chat_template)
    return lab.order(resolved, folder, **(fields or {"adapter_dir": str(run.output)}))


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_rounding_is_read_by_the_library_as_the_nearest_numbers() -> None:
    weight = torch.randn(3, 64, 48, generator=RANDOM) * torch.logspace(-6, 3, 48)
    blocks, scales = quantize_experts(weight)
    assert (blocks.shape, scales.shape) == ((3, 48, 2, 16), (3, 48, 2))
    assert blocks.dtype == scales.dtype == torch.uint8
    read = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert read.shape == weight.shape
    plain = convert_moe_packed_tensors(*_pack_as_published(weight), dtype=torch.float32)
    error = (read - weight).pow(2).sum((0, 1))
    assert (error <= (plain - weight).pow(2).sum((0, 1)) * 1.0001).all(), "no column worse than the plain way"
    assert (error / weight.pow(2).sum((0, 1))).sqrt().max() < 0.15


def test_what_was_mxfp4_before_stays_the_same_numbers() -> None:
    blocks = torch.randint(0, 256, (2, 32, 3, 16), dtype=torch.uint8, generator=RANDOM)
    scales = torch.randint(20, 230, (2, 32, 3), dtype=torch.uint8, generator=RANDOM)
    read = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    again = convert_moe_packed_tensors(*quantize_experts(read), dtype=torch.float32)
    assert torch.equal(again, read)


def test_ties_go_to_the_even_code_and_zeros_stay_zero() -> None:
    weight = torch.zeros(1, 32, 2)
    weight[0, :5, 0] = torch.tensor([6.0, 2.5, -3.5, 0.25, -0.75])
    read = convert_moe_packed_tensors(*quantize_experts(weight), dtype=torch.float32)
    assert read[0, :5, 0].tolist() == [6.0, 2.0, -4.0, 0.0, -1.0]
    assert not read[0, 5:].any()
    assert not torch.signbit(read[0, 3]).any()


def test_inputs_that_make_no_whole_blocks_are_refused() -> None:
    with pytest.raises(TunefleetError, match="blocks of 32 weights, and experts with 48 inputs"):
        quantize_experts(torch.ones(1, 48, 2))


def test_a_published_base_is_loaded_as_whole_numbers_without_loss(published: Path) -> None:
    model = load_base(read_base(published), CPU)
    experts = model.model.layers[0].mlp.experts
    files = _tensors(published)
    for name in ("gate_up_proj", "down_proj"):
        stem = f"model.layers.0.mlp.experts.{name}"
        expected = convert_moe_packed_tensors(
            files[f"{stem}_blocks"], files[f"{stem}_scales"], dtype=torch.float32
        )
        assert torch.equal(getattr(experts, name).detach(), expected)


@pytest.mark.slow
def test_experts_of_a_published_base_learn_and_leave_its_files_alone(
    run: lab.MemoryContext, published: Path, request: pytest.FixtureRequest
) -> None:
    losses = [metrics.loss for metrics in run.told if metrics.HasField("loss")]
    assert sum(losses[-4:]) / 4 < 0.2 * losses[0]
    names = json.loads((run.output / "adapter_config.json").read_text())["target_parameters"]
    assert names == list(run.order.resolved_spec.target_parameters)
    assert len(names) == 4
    assert read_base(published).base_digest == run.order.resolved_spec.base.base_digest
    lab.record_training(request, "sft", "expert_lora", form="mxfp4", model_type="gpt_oss")


def test_an_adapter_beside_the_experts_trains_on_it_too(
    published: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spec = _spec(steps=2, experts=False)
    context = lab.run_colours(published, tmp_path, spec, model_type="gpt_oss")
    weights = load_file(context.output / "adapter_model.safetensors")
    assert weights
    assert not [name for name in weights if ".experts." in name]
    assert all(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)
    lab.record_training(request, "sft", "lora", form="mxfp4", model_type="gpt_oss")


def test_the_manifest_says_of_which_models_it_is_true() -> None:
    (manifest,) = tunefleet_backends()
    scope = training_scope(manifest, "mxfp4")
    assert (list(scope.model_types), list(scope.carriers)) == (["gpt_oss"], ["mxfp4"])


def test_the_merged_model_is_whole_numbers_under_their_own_names(
    run: lab.MemoryContext, tmp_path: Path
) -> None:
    order = _order(run, tmp_path)
    order.resolved_spec.spec.export.merge.SetInParent()
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    tensors = _tensors(context.output)
    assert not [name for name in tensors if name.endswith(("_blocks", "_scales"))]
    assert tensors["model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 64, 128)
    assert "quantization_config" not in json.loads((context.output / "config.json").read_text())


def test_an_adapter_is_written_back_as_it_was_published(
    run: lab.MemoryContext, published: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    context = lab.MemoryContext(_order(run, tmp_path))
    output = TrlRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    written, before = _tensors(context.output), _tensors(published)
    assert {name: (t.shape, t.dtype) for name, t in written.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }
    assert (
        json.loads((context.output / "config.json").read_text())["quantization_config"]["quant_method"]
        == "mxfp4"
    )
    assert any("In mxfp4 the model answers" in text for text in context.notices)
    contract = read_contract(context.output)
    model = load_base(read_base(context.output), CPU)
    measured = measure(model, [record.prompt_token_ids for record in contract.numbers])
    verdict = check_numbers(contract, [top.as_mapping() for top in measured], served_dtype="float32")
    assert verdict.distance_to_tuned < verdict.distance_to_base / 3
    assert not list((tmp_path / "merged-to-round").glob("*"))
    proof_record.record(
        "written", "trl/mxfp4/", f"plugins/trl/tests/{request.node.nodeid.rpartition('/')[2]}"
    )


def test_a_whole_model_is_rounded_too(run: lab.MemoryContext, tmp_path: Path) -> None:
    merging = _order(run, tmp_path / "merge")
    merging.resolved_spec.spec.export.merge.SetInParent()
    merged = lab.MemoryContext(merging)
    TrlRank().run(merged)
    order = _order(run, tmp_path / "round", adapter_dir="")
    order.resolved_spec.base.CopyFrom(read_base(merged.output))
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    assert {name.rpartition("_")[2] for name in _tensors(context.output) if ".experts.down_proj" in name} == {
        "bias", "blocks", "scales",
    }  # fmt: skip


def test_a_damaged_file_is_refused_and_nothing_is_kept(
    run: lab.MemoryContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(source: Path, target: Path, *, before_each: Callable[[], None]) -> None:
        write_mxfp4_folder(source, target, before_each=before_each)
        tensors = load_file(target / "model.safetensors")
        for name in [name for name in tensors if name.endswith("_blocks")]:
            tensors[name] = tensors[name] // 16 | tensors[name] << 4  # the halves of each byte change places
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(export_mxfp4, "write_mxfp4_folder", damaging)
    context = lab.MemoryContext(_order(run, tmp_path))
    with pytest.raises(TunefleetError, match="is what this format may cost") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert not context.output.exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_stop_keeps_nothing(run: lab.MemoryContext, tmp_path: Path) -> None:
    context = lab.MemoryContext(
        _order(run, tmp_path),
        stop_when=lambda context: (
            StopMode.STOP_MODE_CANCEL if context.step >= 1 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("form", "model_type"), [("awq", "gpt_oss"), ("mxfp4", "llama")])
def test_another_format_or_type_is_refused_by_name(
    run: lab.MemoryContext, tmp_path: Path, form: str, model_type: str
) -> None:
    order = _order(run, tmp_path, form=form)
    order.resolved_spec.base.model_type = model_type
    with pytest.raises(TunefleetError) as caught:
        TrlRank().run(lab.MemoryContext(order))
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert (form if form != "mxfp4" else model_type) in caught.value.message
    assert "compress" in caught.value.hint


def test_several_files_get_an_index_of_what_they_hold(published: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(published, source)
    whole = load_base(read_base(published), CPU)
    for path in source.glob("*.safetensors"):
        path.unlink()
    whole.save_pretrained(source, max_shard_size="100KB")
    target.mkdir()
    write_mxfp4_folder(source, target)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for name, file in index["weight_map"].items():
        assert name in load_file(target / file)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in _tensors(target).values())
    read = load_base(read_base(target), CPU)
    assert all(
        torch.equal(one, other) for one, other in zip(whole.parameters(), read.parameters(), strict=True)
    )
