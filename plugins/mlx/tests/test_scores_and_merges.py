"""What MLX trained is scored by it, and merged into whole weights that answer as the tuned model did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import train_lab as lab
from trl_lab import PAIRS, chat, evaluate_spec, order, resolved, write_rows

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_mlx import merging
from tunefleet_mlx.rank import MlxRank


@pytest.fixture(scope="module")
def trained(bases: Path, tmp_path_factory: pytest.TempPathFactory):
    """A LoRA that has learned the colours."""
    folder = tmp_path_factory.mktemp("trained")
    return lab.run(lab.make_order(bases / "qwen3", folder, lab.job("lora", steps=80)))


def after(trained, folder: Path, spec: JobSpec, *data: tuple[str, Path]) -> lab.MemoryContext:
    """Return the context of an order that works on what was trained."""
    base = Path(trained.order.resolved_spec.base.path)
    made = resolved(base, model_type="qwen3", data=list(data), spec=spec)
    made.chat_template.CopyFrom(trained.order.resolved_spec.chat_template)
    return lab.MemoryContext(order(made, folder / "work", adapter_dir=str(trained.output)))


def export_spec(dtype: str = "") -> JobSpec:
    spec = JobSpec(name="merged", backend="mlx")
    spec.export.model.model = "models/colours"
    spec.export.merge.dtype = dtype
    return spec


def test_half_right_answers_score_a_half(trained, tmp_path: Path) -> None:
    rows = [chat(*pair) for pair in PAIRS] + [chat(question, "falsch") for question, _ in PAIRS]
    context = after(
        trained, tmp_path, evaluate_spec(), ("evaluate", write_rows(tmp_path / "test.jsonl", rows))
    )
    output = MlxRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_EVALUATION
    found = {score.metric: score for score in output.scores}
    assert (found["exact_match"].value, found["exact_match"].rows) == (0.5, 2 * len(PAIRS))
    answers = [json.loads(line) for line in (context.output / "answers.jsonl").read_text().splitlines()]
    assert [answer["given"] for answer in answers] == [answer for _, answer in PAIRS] * 2
    assert context.told[-1].step == context.told[-1].total_steps == 2 * len(PAIRS)


def test_a_stop_ends_an_evaluation_and_keeps_nothing(trained, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "test.jsonl", [chat(*pair) for pair in PAIRS])
    context = after(trained, tmp_path, evaluate_spec(), ("evaluate", rows))
    context = lab.MemoryContext(context.order, stop_when=lambda _: StopMode.STOP_MODE_CANCEL)
    with pytest.raises(RunStopped):
        MlxRank().run(context)
    assert not context.output.exists()


@pytest.mark.parametrize("adaptation", ["lora", "dora", "mlx4"])
def test_a_run_that_merges_leaves_whole_weights_held_to_the_numbers(
    bases: Path, tmp_path: Path, adaptation: str
) -> None:
    spec = lab.job(adaptation, steps=6)
    spec.train.merge = True
    context = lab.run(lab.make_order(bases / "qwen3", tmp_path, spec))
    names = {path.name for path in context.output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "contract.json"} <= names
    assert "adapter_config.json" not in names
    contract = read_contract(context.output)
    assert (contract.precision.quantization, contract.unquantized) == ("", ())
    assert any("The merged model" in text for text in context.notices)
    assert [path.name for path in Path(context.order.work_dir).glob("to-merge-*")] == []


def test_an_export_merges_and_the_library_of_trl_reads_the_same_model(trained, tmp_path: Path) -> None:
    context = after(trained, tmp_path, export_spec())
    assert MlxRank().run(context).kind == ArtifactKind.ARTIFACT_KIND_MODEL
    assert [item.step for item in context.told] == [0, 1, 2, 3, 4]
    contract = read_contract(context.output)
    prompts = [list(record.prompt_token_ids) for record in contract.numbers]
    logits = lab.trl_side("top", context.output, json.dumps(prompts))
    for record, found in zip(contract.numbers, logits, strict=True):
        told = dict(zip(record.tuned.token_ids, record.tuned.logprobs, strict=True))
        moved = [abs(told[int(token)] - value) for token, value in found.items() if int(token) in told]
        assert len(moved) > 10
        assert max(moved) < 1e-3


def test_a_merge_that_changed_nothing_is_not_kept(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(model) -> None:
        for _name, layer in model.named_modules():
            if hasattr(layer, "fuse"):
                layer.scale = 0.0
        kept(model)

    kept = merging._fuse
    monkeypatch.setattr(merging, "_fuse", forget)
    context = after(trained, tmp_path, export_spec())
    with pytest.raises(TunefleetError, match="does not answer as the tuned model did") as caught:
        MlxRank().run(context)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert not context.output.exists()


def test_another_base_is_refused(trained, tmp_path: Path) -> None:
    context = after(trained, tmp_path, export_spec())
    context.order.resolved_spec.base.base_digest = "0" * 64
    with pytest.raises(TunefleetError, match="The adapter was trained on base") as caught:
        MlxRank().run(context)
    assert caught.value.reason is Reason.BASE_INVALID
