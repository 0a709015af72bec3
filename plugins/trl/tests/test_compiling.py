"""torch.compile, where a job asks for it: the same losses, the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab
from safetensors.torch import load_file

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_trl.compiling import compile_arguments, require_compilable
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.rank import TrlRank
from tunefleet_trl.reference_numbers import measure

# Tracing looks at everything, and torch warns itself of what is deprecated or empty.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def settings_end_with_the_test(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library keeps them in the environment of its process, which a run has for itself."""
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    torch._dynamo.reset()


def spec(backend: str = "", *, steps: int = 4) -> lab.JobSpec:
    wanted = lab.train_spec(steps=steps, dropout=0.0, batch_size=8, micro_batch_size=4)
    if backend:
        wanted.backend_options.update({"compile": {"backend": backend}})
    return wanted


def context(base: Path, folder: Path, wanted: lab.JobSpec, **fields: Any) -> lab.MemoryContext:
    folder.mkdir()
    rows = lab.write_rows(folder / "train.jsonl", [lab.chat("red", "rot"), lab.chat("ret", "rod")] * 4)
    resolved = lab.resolved(base, data=[("train", rows)], spec=wanted)
    return lab.MemoryContext(lab.order(resolved, folder / "work"), **fields)


def losses(run: lab.MemoryContext) -> list[float]:
    return [metrics.loss for metrics in run.told if metrics.HasField("loss")]


@pytest.fixture(scope="module")
def shallow(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one layer: a layer is what tracing takes seconds for."""
    return lab.build_base(tmp_path_factory.mktemp("shallow"), num_hidden_layers=1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_learns_and_resumes_as_without_and_writes_the_same_names(
    shallow: Path, tmp_path: Path, backend: str
) -> None:
    plain = context(shallow, tmp_path / "plain", spec())
    TrlRank().run(plain)
    stopped = context(
        shallow,
        tmp_path / "stopped",
        spec(backend),
        stop_when=lambda run: StopMode.STOP_MODE_SAVE if run.step >= 2 else StopMode.STOP_MODE_UNSPECIFIED,
    )
    with pytest.raises(RunStopped):
        TrlRank().run(stopped)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "something was compiled"
    (step,) = stopped.checkpoints
    resumed = context(shallow, tmp_path / "resumed", spec(backend))
    resumed.order.resume_from, resumed.order.resume_step = str(stopped.checkpoint_folder(step)), step
    TrlRank().run(resumed)
    assert losses(stopped) + losses(resumed) == pytest.approx(losses(plain), abs=1e-4)
    assert any("processor" in notice for notice in resumed.notices)
    names = load_file(plain.output / WEIGHTS).keys()
    assert load_file(stopped.checkpoint_folder(step) / WEIGHTS).keys() == names
    assert load_file(resumed.output / WEIGHTS).keys() == names
    contract = read_contract(resumed.output)
    base = load_base(read_base(shallow), Hardware(kind="cpu", dtype="float32"))
    prompts = [record.prompt_token_ids for record in contract.numbers]
    measured = measure(load_adapter(base, str(resumed.output)), prompts)
    found = check_numbers(contract, [top.as_mapping() for top in measured])
    assert found.distance_to_tuned < 1e-4


def test_nothing_is_compiled_unless_a_job_asks_for_it() -> None:
    assert compile_arguments(lab.JobSpec()) == {}
    asked = lab.JobSpec()
    asked.backend_options.update({"compile": {}})
    assert compile_arguments(asked) == {"torch_compile": True, "torch_compile_backend": "inductor"}
    asked.backend_options.update({"compile": {"mode": "reduce-overhead"}})
    assert compile_arguments(asked)["torch_compile_mode"] == "reduce-overhead"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"compile": {}, "sharding": "fsdp2"}, "backend_options.compile"),
        ({"compile": {"backend": "eager", "mode": "default"}}, "backend_options.compile.mode"),
    ],
)
def test_what_was_not_tried_compiled_is_refused(options: dict[str, Any], field: str) -> None:
    asked = lab.JobSpec()
    asked.backend_options.update(options)
    with pytest.raises(TunefleetError) as caught:
        require_compilable(asked)
    assert caught.value.metadata["field"] == field
