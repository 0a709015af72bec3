"""The trial before the first step finds what cannot work, and leaves no trace of itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import process_lab
import pytest
import torch
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_trl import preflight
from tunefleet_trl.rank import TrlRank

_LONG = ("say " + "very " * 20 + "much", "ja " * 20)
_LONGEST = ("say " + "very " * 80 + "much", "ja " * 20)
# Training in a process whose address space may not grow any more when the trial begins.
_BOUNDED = """
import ctypes, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import trl_lab as lab
from tunefleet_core.errors import TunefleetError
from tunefleet_trl import preflight, warmup
from tunefleet_trl.rank import TrlRank
warmup.import_all()
order = lab.RunOrder.FromString(Path(sys.argv[2]).read_bytes())
context = lab.MemoryContext(order)
real = preflight._try_step
def bounded(*arguments, **named):
    ctypes.CDLL(None).malloc_trim(0)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now, resource.RLIM_INFINITY))
    real(*arguments, **named)
preflight._try_step = bounded
try:
    TrlRank().run(context)
except TunefleetError as error:
    print(error.reason, "|", error.message, "|", error.hint, "|", context.step, "|", len(context.checkpoints))
"""


def _order(base: Path, folder: Path, spec: lab.JobSpec, *, long: tuple[str, str] = _LONG) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    rows = [lab.chat(*pair) for pair in (*lab.PAIRS, long)] * 8
    data = lab.write_rows(folder / "train.jsonl", rows)
    return lab.order(lab.resolved(base, data=[("train", data)], spec=spec), folder / "work")


def _ran(base: Path, folder: Path, spec: lab.JobSpec) -> lab.MemoryContext:
    context = lab.MemoryContext(_order(base, folder, spec))
    TrlRank().run(context)
    return context


def test_a_run_with_a_trial_ends_in_the_bytes_of_one_without(base: Path, tmp_path: Path) -> None:
    runs: dict[bool, lab.MemoryContext] = {}
    for wanted in (True, False):
        spec = lab.train_spec(steps=6, dropout=0.1)  # dropout: the random state has to be given back too
        spec.train.checkpoint.every_steps = 3
        spec.train.preflight = wanted
        runs[wanted] = _ran(base, tmp_path / str(wanted), spec)
    for name in ("adapter_model.safetensors", "contract.json"):
        assert (runs[True].output / name).read_bytes() == (runs[False].output / name).read_bytes()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        one, other = (runs[wanted].checkpoint_folder(3) / name for wanted in (True, False))
        assert one.read_bytes() == other.read_bytes(), name
    told = [[(item.step, item.loss, item.tokens) for item in run.told] for run in runs.values()]
    assert told[0] == told[1]


@pytest.mark.slow
def test_full_fine_tuning_with_a_trial_ends_in_the_bytes_of_one_without(base: Path, tmp_path: Path) -> None:
    written: list[bytes] = []
    for wanted in (True, False):
        spec = lab.train_spec(steps=4, learning_rate=1e-3)
        spec.train.ClearField("adapter")
        spec.train.preflight = wanted
        written.append((_ran(base, tmp_path / str(wanted), spec).output / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_it_tells_what_was_tried_before_the_first_step(base: Path, tmp_path: Path) -> None:
    context = _ran(base, tmp_path, lab.train_spec(steps=2))
    (found,) = context.preflights
    rows = [len(row) for row in (_LONG, *lab.PAIRS)]
    assert found.longest_row_tokens > max(rows)
    assert found.longest_row_tokens > 160, "the long row, not the first ones"
    assert found.peak_memory_bytes > 0
    assert 0 < found.step_seconds < found.seconds
    saved = context.output / "adapter_model.safetensors"
    assert found.checkpoint_bytes > 2 * saved.stat().st_size, "weights and two moments"
    assert not (tmp_path / "work" / "preflight").exists()
    phases = [phase for phase in context.phases if phase != RunPhase.RUN_PHASE_SAVING]
    assert phases == [
        RunPhase.RUN_PHASE_LOADING,
        RunPhase.RUN_PHASE_PREFLIGHT,
        RunPhase.RUN_PHASE_WORKING,
    ]


@pytest.mark.parametrize(("planned_bytes", "rows"), [(0, 4), (1 << 20, 1), (1 << 50, 4)])
def test_a_whole_micro_batch_is_tried_where_memory_is_a_question(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned_bytes: int, rows: int
) -> None:
    """No plan at all counts as a question."""
    tried: list[int] = []
    real = preflight._forward_and_backward

    def counting(trainer: object, batch: dict[str, torch.Tensor]) -> None:
        tried.append(len(batch["input_ids"]))
        real(trainer, batch)

    monkeypatch.setattr(preflight, "_forward_and_backward", counting)
    order = _order(base, tmp_path, lab.train_spec(steps=1, micro_batch_size=4))
    order.resolved_spec.estimate.peak_bytes = planned_bytes
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    assert tried[0] == rows
    assert context.preflights[0].longest_row_tokens > 160


def test_a_model_of_routed_experts_is_tried_and_trained(tmp_path: Path) -> None:
    """Such models scale their own loss, by a figure that the library's loop sets before each step."""
    base = lab.build_base(tmp_path / "base", model_type="qwen3_moe")
    data = lab.colours(tmp_path / "train.jsonl", copies=4)
    spec = lab.resolved(base, model_type="qwen3_moe", data=[("train", data)], spec=lab.train_spec(steps=2))
    context = lab.MemoryContext(lab.order(spec, tmp_path / "work"))
    TrlRank().run(context)
    assert len(context.preflights) == 1
    assert context.step == 2


def test_a_resumed_run_does_not_try_again(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=4)
    spec.train.checkpoint.every_steps = 2
    first = _ran(base, tmp_path / "first", spec)
    order = lab.RunOrder()
    order.CopyFrom(first.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from = str(first.checkpoint_folder(2))
    order.resume_step = 2
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    assert len(first.preflights) == 1
    assert resumed.preflights == []
    assert RunPhase.RUN_PHASE_PREFLIGHT not in resumed.phases
    assert resumed.step == 4


@pytest.mark.parametrize(
    ("micro", "fix"),
    [(4, "micro_batch_size to 2"), pytest.param(1, "train.max_length to", marks=pytest.mark.slow)],
)
def test_too_little_memory_is_told_before_the_first_step_with_the_smallest_fix(
    base: Path, tmp_path: Path, micro: int, fix: str
) -> None:
    spec = lab.train_spec(steps=4, micro_batch_size=micro)
    spec.train.max_length = 512
    order = _order(base, tmp_path / "run", spec, long=_LONGEST)
    (tmp_path / "order").write_bytes(order.SerializeToString())
    here = str(Path(__file__).resolve().parent)
    ended = subprocess.run(
        [sys.executable, "-c", _BOUNDED, here, str(tmp_path / "order")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout, ended.stderr[-2000:]
    reason, message, hint, step, checkpoints = ended.stdout.splitlines()[-1].split(" | ")
    assert reason == "OUT_OF_MEMORY"
    assert "iB were in use" in message
    assert fix in hint
    assert (step, checkpoints) == ("0", "0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    with process_lab.small_disk(tmp_path / "disk", kibibytes=512) as folder:
        yield folder


@pytest.mark.parametrize("ballast", [0, 440_000])
def test_a_disk_too_small_is_told_before_the_first_step(
    base: Path, tmp_path: Path, small_disk: Path, ballast: int
) -> None:
    """Without ballast one checkpoint fits and four do not; with it not even the trial's own."""
    (small_disk / "ballast").write_bytes(b"x" * ballast)
    spec = lab.train_spec(steps=40)
    spec.train.checkpoint.every_steps = 5
    order = _order(base, tmp_path / "run", spec)
    order.work_dir = str(small_disk / "work")
    Path(order.work_dir).mkdir()
    context = lab.MemoryContext(order)
    with pytest.raises(TunefleetError, match="free") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.DISK_FULL
    assert int(caught.value.metadata["free_bytes"]) <= 512 << 10
    assert context.step == 0
    assert context.checkpoints == []
    assert not (small_disk / "work" / "preflight").exists()


def test_a_template_that_cannot_ask_is_told_before_the_first_step(base: Path, tmp_path: Path) -> None:
    order = _order(base, tmp_path, lab.train_spec(steps=4))
    template = order.resolved_spec.chat_template
    template.text = (
        "{% if add_generation_prompt %}{{ raise_exception('no answers') }}{% endif %}" + template.text
    )
    context = lab.MemoryContext(order)
    with pytest.raises(TunefleetError, match="no answers") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.TEMPLATE_MISMATCH
    assert caught.value.metadata["line"] == "1"
    assert context.step == 0


def test_weights_that_are_no_numbers_are_told_before_the_first_step(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = lab.build_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    context = lab.MemoryContext(_order(base, tmp_path / "run", lab.train_spec(steps=4)))
    with pytest.raises(TunefleetError, match="before anything was learned") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.BACKEND_FAILED
    assert context.step == 0


def test_a_stop_ends_it(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(
        _order(base, tmp_path, lab.train_spec(steps=4)),
        stop_when=lambda context: StopMode.STOP_MODE_CANCEL,
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    assert context.preflights == []


def test_a_bound_in_seconds_ends_the_steps_and_keeps_what_was_learned(base: Path, tmp_path: Path) -> None:
    context = _ran(base, tmp_path, lab.train_spec(steps=100_000, max_seconds=0.2))
    assert 1 <= context.step < 100_000
    assert (context.output / "adapter_model.safetensors").is_file()
