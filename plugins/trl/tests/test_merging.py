"""A merged model is the tuned model, by its numbers, or it is not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_trl.merging import merge_adapter
from tunefleet_trl.rank import TrlRank


def _merged(trained: lab.MemoryContext, target: Path, **options: object) -> Path:
    target.mkdir()
    merge_adapter(trained.order.resolved_spec.base, trained.output, target, **options)  # type: ignore[arg-type]
    return target


def _export_order(trained: lab.MemoryContext, folder: Path) -> lab.RunOrder:
    spec = JobSpec(name="whole", backend="trl")
    spec.export.model.model = "models/tiny"
    spec.export.merge.SetInParent()
    resolved = ResolvedSpec(
        spec=spec,
        base=trained.order.resolved_spec.base,
        chat_template=trained.order.resolved_spec.chat_template,
    )
    return lab.order(resolved, folder, adapter_dir=str(trained.output))


def test_merged_numbers_are_those_of_the_adapter(trained: lab.MemoryContext, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = _merged(trained, tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for record in read_contract(trained.output).numbers:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(record.prompt_token_ids)])).logits[0, -1]
        found = torch.log_softmax(logits.float(), dim=-1)[list(record.tuned.token_ids)]
        assert found.tolist() == pytest.approx(list(record.tuned.logprobs), abs=1e-3)


def test_a_merged_folder_is_a_base_with_the_trained_template(
    base: Path, trained: lab.MemoryContext, tmp_path: Path
) -> None:
    folder = _merged(trained, tmp_path / "whole")
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    text = trained.order.resolved_spec.chat_template.text
    assert (folder / "chat_template.jinja").read_text() == text
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    assert read_contract(folder) == read_contract(trained.output)
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert stops == list(trained.order.resolved_spec.chat_template.stop_token_ids)
    facts = lab.read_base(folder)
    assert facts.chat_template == text
    assert facts.parameter_count == trained.order.resolved_spec.base.parameter_count


def test_the_number_type_is_the_base_s_own_or_the_one_asked_for(
    trained: lab.MemoryContext, tmp_path: Path
) -> None:
    for dtype, stored in (("", "F32"), ("bfloat16", "BF16"), ("float16", "F16")):
        folder = _merged(trained, tmp_path / f"whole{dtype}", dtype=dtype)
        assert {tensor.dtype for tensor in lab.read_base(folder).tensors} == {stored}


def test_an_export_order_writes_a_model_and_tells_its_progress(
    trained: lab.MemoryContext, tmp_path: Path
) -> None:
    context = lab.MemoryContext(_export_order(trained, tmp_path))
    output = TrlRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    assert [(item.step, item.total_steps) for item in context.told] == [(step, 4) for step in range(5)]
    assert any("answers as the tuned model did" in text for text in context.notices)
    assert (context.output / "model.safetensors").is_file()


def test_wrong_numbers_are_refused_and_nothing_is_kept(trained: lab.MemoryContext, tmp_path: Path) -> None:
    other = tmp_path / "adapter"
    shutil.copytree(trained.output, other)
    config = json.loads((other / "adapter_config.json").read_text())
    config["lora_alpha"] /= 4  # what an engine does that takes rsLoRA for LoRA
    (other / "adapter_config.json").write_text(json.dumps(config))
    order = _export_order(trained, tmp_path / "work")
    order.adapter_dir = str(other)
    context = lab.MemoryContext(order)
    with pytest.raises(TunefleetError, match="scale") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert float(caught.value.metadata["distance_to_tuned"]) > 0.02
    assert not context.output.exists()
    assert not list((tmp_path / "work").rglob("*.safetensors"))


def test_another_base_is_refused(trained: lab.MemoryContext, tmp_path: Path) -> None:
    other = lab.read_base(lab.build_base(tmp_path / "other", model_type="llama"))
    (tmp_path / "whole").mkdir()
    with pytest.raises(TunefleetError, match="was trained on base") as caught:
        merge_adapter(other, trained.output, tmp_path / "whole")
    assert caught.value.reason is Reason.BASE_INVALID


def test_a_stop_ends_an_export_and_keeps_nothing(trained: lab.MemoryContext, tmp_path: Path) -> None:
    context = lab.MemoryContext(
        _export_order(trained, tmp_path),
        stop_when=lambda context: (
            StopMode.STOP_MODE_CANCEL if context.step >= 2 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    assert not context.output.exists()


@pytest.mark.slow
def test_a_training_run_that_merges_ends_with_the_whole_model(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=30, dropout=0.0)
    spec.train.merge = True
    context = lab.run_colours(base, tmp_path, spec)
    names = {path.name for path in context.output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "contract.json"} <= names
    assert "adapter_model.safetensors" not in names
    assert not (tmp_path / "work" / "adapter-to-merge").exists()
    assert any("answers as the tuned model did" in text for text in context.notices)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dora", "rslora", "nf4"])
def test_every_form_of_adapter_merges_into_the_full_base(base: Path, tmp_path: Path, form: str) -> None:
    spec = lab.train_spec(steps=40, dropout=0.0)
    if form == "nf4":
        spec.train.quantization = "nf4"
    else:
        setattr(spec.train.adapter.lora, form, True)
    context = lab.run_colours(base, tmp_path, spec)
    folder = _merged(context, tmp_path / "whole")
    assert {tensor.dtype for tensor in lab.read_base(folder).tensors} == {"F32"}
    assert read_contract(folder).precision.quantization == ""
