"""A folder that was written answers as the tuned model did, or it is not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx_lab as lab
import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.matrix import proof_record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_mlx import export as exporting
from tunefleet_mlx.rank import MlxRank
from tunefleet_mlx.variants import VARIANTS


def _export(model: Path, work_dir: Path, *, variant: str = "4bit") -> lab.MemoryContext:
    context = lab.MemoryContext(lab.order(model, work_dir, variant=variant))
    output = MlxRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    return context


def _cost(context: lab.MemoryContext) -> float:
    """Return the mean difference that the run itself found, in nats."""
    (told,) = [text for text in context.notices if "nats away from the weights before" in text]
    return float(told.split("answers ")[1].split(" nats")[0])


def test_a_folder_of_each_class_is_quantised_and_has_the_model_s_own_tokenizer(
    model: Path, tmp_path: Path
) -> None:
    context = _export(model, tmp_path)
    assert [(item.step, item.total_steps) for item in context.told] == [(step, 3) for step in range(4)]
    config = json.loads((context.output / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["group_size"] == 64
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (context.output / name).read_bytes() == (model / name).read_bytes()
    assert not (context.output / "README.md").exists(), "mlx-lm writes a page for a model hub"
    assert {path.stat().st_mode & 0o777 for path in context.output.iterdir()} == {0o644}
    assert list(context.work_dir.iterdir()) == [context.output], "nothing else is left"


def test_the_record_of_a_folder_is_what_mlx_lm_answers(qwen3: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import mlx_lm

    context = _export(qwen3, tmp_path)
    loaded = mlx_lm.load(str(context.output))[0]
    contract = read_contract(context.output)
    assert contract.precision.quantization == "mlx"
    for record in contract.numbers:
        logits = loaded(mx.array([list(record.prompt_token_ids)]))[0, -1].astype(mx.float32)
        logprobs = (logits - mx.logsumexp(logits))[list(record.tuned.token_ids)]
        assert logprobs.tolist() == pytest.approx(list(record.tuned.logprobs), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_costs_less_than_it_may(
    qwen3: Path, tmp_path: Path, variant: str, request: pytest.FixtureRequest
) -> None:
    assert _cost(_export(qwen3, tmp_path, variant=variant)) < VARIANTS[variant].tolerance
    test = f"plugins/mlx/tests/{request.node.nodeid.rpartition('/')[2]}"
    proof_record.record("written", f"mlx/mlx/{variant}", test)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_sixteen_bits_are_exported(tmp_path: Path, dtype: str) -> None:
    model = lab.build_model(tmp_path / "model", model_type="qwen3", dtype=dtype)
    assert _cost(_export(model, tmp_path / "work", variant="8bit")) < VARIANTS["8bit"].tolerance


def _swap(folder: Path) -> None:
    """Exchange two matrices of one shape."""
    import mlx.core as mx

    file = folder / "model.safetensors"
    weights = dict(mx.load(str(file)))
    one, other = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    weights[one], weights[other] = weights[other], weights[one]
    mx.eval(weights)
    file.unlink()
    mx.save_safetensors(str(file), weights, {"format": "mlx"})


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "reason"), [(_swap, Reason.NUMBERS_MISMATCH), (_cut, Reason.BASE_INVALID)]
)
def test_damage_is_found_and_nothing_is_kept(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, reason: Reason
) -> None:
    run_aside = exporting.run_aside

    def run(context: Any, module: str, task: Any, **rest: Any) -> Any:
        result = run_aside(context, module, task, **rest)
        if module.endswith("converting"):
            damage(Path(task["target"]))
        return result

    monkeypatch.setattr(exporting, "run_aside", run)
    with pytest.raises(TunefleetError) as caught:
        _export(qwen3, tmp_path, variant="8bit")
    assert caught.value.reason is reason
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_named_before_anything_is_written(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(TunefleetError, match=r"as mlx/4bit takes [\d,]+ bytes .* 1,000 free") as caught:
        MlxRank().run(lab.MemoryContext(lab.order(qwen3, tmp_path)))
    assert caught.value.reason is Reason.DISK_FULL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stop_ends_an_export_and_keeps_nothing(qwen3: Path, tmp_path: Path, stage: int) -> None:
    context = lab.MemoryContext(
        lab.order(qwen3, tmp_path),
        stop_when=lambda context: (
            StopMode.STOP_MODE_CANCEL if context.step >= stage else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        MlxRank().run(context)
    assert not list(tmp_path.iterdir())


def test_another_form_is_refused_by_name(qwen3: Path, tmp_path: Path) -> None:
    order = lab.order(qwen3, tmp_path)
    order.resolved_spec.spec.export.quantize.format = "awq"
    with pytest.raises(TunefleetError, match="writes 'mlx' alone"):
        MlxRank().run(lab.MemoryContext(order))
