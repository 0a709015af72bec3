"""A file that was written answers as the tuned model did, or it is not kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf_lab as lab
import psutil
import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.matrix import proof_record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_gguf import export as exporting
from tunefleet_gguf.rank import GgufRank
from tunefleet_gguf.variants import VARIANTS


def _export(model: Path, work_dir: Path, *, variant: str = "q4_k_m", **options: Any) -> lab.MemoryContext:
    context = lab.MemoryContext(lab.order(model, work_dir, variant=variant, **options))
    output = GgufRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    return context


def _file(context: lab.MemoryContext) -> Path:
    (file,) = context.output.glob("*.gguf")
    return file


def _cost(context: lab.MemoryContext) -> float:
    """Return the mean difference that the run itself found, in nats."""
    (told,) = [text for text in context.notices if "nats away from the weights before" in text]
    return float(told.split("answers ")[1].split(" nats")[0])


def test_a_file_of_each_class_holds_its_matrices_in_the_variant(model: Path, tmp_path: Path) -> None:
    import gguf

    context = _export(model, tmp_path)
    assert [(item.step, item.total_steps) for item in context.told] == [(step, 4) for step in range(5)]
    reader = gguf.GGUFReader(str(_file(context)))
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    assert kinds == {"Q4_K", "Q6_K"}
    assert str(reader.fields["general.architecture"].contents()) in model.name
    assert reader.fields["general.name"].contents() == "tiny"
    assert reader.fields["tokenizer.ggml.pre"].contents() == "qwen2"
    assert "<|im_start|>" in str(reader.fields["tokenizer.chat_template"].contents())
    assert list(context.work_dir.iterdir()) == [context.output], "nothing else is left"


def test_what_lies_beside_the_weights_is_kept_and_the_record_is_of_the_file(
    qwen3: Path, tmp_path: Path
) -> None:
    context = _export(qwen3, tmp_path)
    names = {path.name for path in context.output.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "contract.json"} <= names
    assert not [name for name in names if "safetensors" in name]
    before, after = read_contract(qwen3), read_contract(context.output)
    assert after.precision.quantization == "gguf"
    assert [record.base for record in after.numbers] == [record.base for record in before.numbers]
    assert [record.tuned for record in after.numbers] != [record.tuned for record in before.numbers]


def test_the_record_of_a_file_is_what_llama_cpp_answers(qwen3: Path, tmp_path: Path) -> None:
    import numpy
    from llama_cpp import Llama

    context = _export(qwen3, tmp_path, variant="q8_0")
    engine = Llama(str(_file(context)), n_ctx=128, logits_all=True, n_threads=1, verbose=False)
    for record in read_contract(context.output).numbers:
        engine.reset()
        engine.eval(list(record.prompt_token_ids))
        found = engine.logits_to_logprobs(engine.scores[engine.n_tokens - 1])
        moved = abs(found[list(record.tuned.token_ids)] - numpy.array(record.tuned.logprobs))
        # The engine rounds its key-value cache to 16 bits and computes its prompts in other batches.
        assert moved.mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_costs_less_than_it_may(
    qwen3: Path, tmp_path: Path, variant: str, request: pytest.FixtureRequest
) -> None:
    context = _export(qwen3, tmp_path, variant=variant)
    assert _cost(context) < VARIANTS[variant].tolerance
    assert _file(context).name == f"model-{variant}.gguf"
    test = f"plugins/gguf/tests/{request.node.nodeid.rpartition('/')[2]}"
    proof_record.record("written", f"gguf/gguf/{variant}", test)


@pytest.mark.slow
def test_fewer_bits_take_less_room_and_cost_more(qwen3: Path, tmp_path: Path) -> None:
    found = [_export(qwen3, tmp_path / name, variant=name) for name in ("f16", "q8_0", "q4_k_m", "q2_k")]
    sizes = [_file(context).stat().st_size for context in found]
    assert sizes == sorted(sizes, reverse=True)
    costs = [_cost(context) for context in found]
    assert costs == sorted(costs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_sixteen_bits_are_exported(tmp_path: Path, dtype: str) -> None:
    model = lab.build_model(tmp_path / "model", model_type="qwen3", dtype=dtype)
    assert _cost(_export(model, tmp_path / "work", variant="q8_0")) < VARIANTS["q8_0"].tolerance


def _damaging(monkeypatch: pytest.MonkeyPatch, part: str, damage: Any) -> None:
    """Run the parts as they are, and damage what one of them wrote."""
    run_aside = exporting.run_aside

    def run(context: Any, module: str, task: Any, **rest: Any) -> Any:
        result = run_aside(context, module, task, **rest)
        if module.endswith(part):
            damage(Path(task["target"]))
        return result

    monkeypatch.setattr(exporting, "run_aside", run)


def _swap(file: Path, tensor: str, other: str) -> None:
    """Exchange the bytes of two tensors of one shape and type."""
    import gguf

    reader = gguf.GGUFReader(str(file), "r+")
    by_name = {item.name: item for item in reader.tensors}
    one, two = by_name[tensor].data, by_name[other].data
    kept = one.copy()
    one[:] = two
    two[:] = kept
    reader.data.flush()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [("converting", "Before it was rounded"), ("quantizing", "away from the weights before")],
)
def test_exchanged_tensors_are_found_and_nothing_is_kept(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, sentence: str
) -> None:
    _damaging(monkeypatch, part, lambda file: _swap(file, "blk.0.ffn_up.weight", "blk.1.ffn_up.weight"))
    with pytest.raises(TunefleetError, match=sentence) as caught:
        _export(qwen3, tmp_path, variant="q8_0")
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_cut_short_is_refused_in_llama_cpp_s_words(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(file: Path) -> None:
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size // 2)

    _damaging(monkeypatch, "quantizing", cut)
    with pytest.raises(TunefleetError, match="could not load") as caught:
        _export(qwen3, tmp_path)
    assert caught.value.reason is Reason.BACKEND_FAILED
    assert not list(tmp_path.iterdir())


def test_a_wrong_pre_tokenizer_is_found_by_its_tokens(qwen3: Path, tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="other tokens than") as caught:
        _export(qwen3, tmp_path, pre_tokenizer="gpt-2")
    assert caught.value.reason is Reason.TEMPLATE_MISMATCH
    assert caught.value.metadata["pre_tokenizer"] == "gpt-2"


def test_code_from_a_model_folder_is_not_run(tmp_path: Path) -> None:
    model = lab.build_model(tmp_path / "model", model_type="qwen3")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["code.Theirs", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TunefleetError, match="names code to run"):
        _export(model, tmp_path / "work")


def test_a_class_that_llama_cpp_does_not_know_is_named(qwen3: Path, tmp_path: Path) -> None:
    import shutil

    model = shutil.copytree(qwen3, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["NobodyForCausalLM"]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(TunefleetError, match="NobodyForCausalLM") as caught:
        _export(model, tmp_path / "work")
    assert caught.value.reason is Reason.BASE_INVALID


def test_a_disk_without_room_is_named_before_anything_is_written(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(TunefleetError, match=r"as gguf/q4_k_m takes [\d,]+ bytes .* 1,000 free") as caught:
        GgufRank().run(lab.MemoryContext(lab.order(qwen3, tmp_path)))
    assert caught.value.reason is Reason.DISK_FULL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stop_ends_an_export_and_keeps_nothing(qwen3: Path, tmp_path: Path, stage: int) -> None:
    context = lab.MemoryContext(
        lab.order(qwen3, tmp_path),
        stop_when=lambda context: (
            StopMode.STOP_MODE_CANCEL if context.step >= stage else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        GgufRank().run(context)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the pipe's end ends the processes of a rank")
def test_a_killed_export_leaves_no_output_and_no_process(qwen3: Path, tmp_path: Path) -> None:
    (tmp_path / "order.pb").write_bytes(lab.order(qwen3, tmp_path / "work").SerializeToString())
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import gguf_lab as lab\n"
        "from tunefleet_gguf.rank import GgufRank\n"
        "order = lab.RunOrder.FromString(pathlib.Path(sys.argv[2]).read_bytes())\n"
        "GgufRank().run(lab.MemoryContext(order))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "order.pb")]
    rank = subprocess.Popen(command)
    try:
        while not (children := psutil.Process(rank.pid).children(recursive=True)):
            assert rank.poll() is None, "it ended before it began"
            time.sleep(0.02)
    finally:
        rank.kill()
        rank.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not (tmp_path / "work" / "output").exists()


def test_another_form_is_refused_by_name(qwen3: Path, tmp_path: Path) -> None:
    order = lab.order(qwen3, tmp_path)
    order.resolved_spec.spec.export.quantize.format = "awq"
    with pytest.raises(TunefleetError, match="writes 'gguf' alone"):
        GgufRank().run(lab.MemoryContext(order))
