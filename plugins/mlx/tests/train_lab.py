"""Training orders on tiny bases, with the rows and the context of trl's tests; torch is never here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "families"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "trl" / "tests"))

from trl_lab import PAIRS, MemoryContext, RunOrder, adapted_spec, chat, order, resolved, write_rows

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_mlx.rank import MlxRank

__all__ = [
    "ADAPTATIONS",
    "as_trl",
    "job",
    "losses",
    "make_order",
    "run",
    "run_apart",
    "start_apart",
    "trl_side",
]

ADAPTATIONS = ("lora", "rslora", "dora", "mlx4", "mlx8", "full")


_RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import train_lab as lab
ended = lab.run(lab.RunOrder.FromString(Path(sys.argv[2]).read_bytes()))
told = [(item.step, item.loss) for item in ended.told if item.HasField("loss")]
Path(sys.argv[2] + ".json").write_text(json.dumps(told))
"""


def trl_side(*arguments: object) -> Any:
    """Return what `trl_side.py` answers."""
    python = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON")
    if not python:
        pytest.skip("this needs torch: name the trl environment's python in TUNEFLEET_TEST_TRL_PYTHON")
    command = [python, str(Path(__file__).with_name("trl_side.py")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def job(adaptation: str, *, steps: int = 12, dropout: float = 0.0, every: int = 1000) -> JobSpec:
    """Return a training spec of one way of adapting a model."""
    is_rounded = adaptation.startswith("mlx")
    spec = adapted_spec("lora" if is_rounded else adaptation, steps=steps, dropout=dropout)
    spec.backend = "mlx"
    spec.train.quantization = adaptation if is_rounded else ""
    spec.train.checkpoint.every_steps = every
    return spec


def make_order(base: Path, folder: Path, spec: JobSpec) -> RunOrder:
    """Return an order to learn the German words for colours."""
    rows = [chat(*pair) for pair in PAIRS]
    data = [
        ("train", write_rows(folder / "train.jsonl", rows * 4)),
        ("validation", write_rows(folder / "validation.jsonl", rows)),
    ]
    return order(resolved(base, model_type=base.name, data=data, spec=spec), folder / "work")


def as_trl(one: RunOrder, work: Path) -> RunOrder:
    """Return the same order for trl."""
    other = RunOrder()
    other.CopyFrom(one)
    other.resolved_spec.spec.backend = "trl"
    other.work_dir = str(work)
    return other


def run(order: RunOrder, *, stop_when: Callable[[MemoryContext], int] | None = None) -> MemoryContext:
    """Run an order in this process and return what it told."""
    context = MemoryContext(order, stop_when=stop_when)
    MlxRank().run(context)
    return context


def start_apart(order: RunOrder, path: Path) -> subprocess.Popen[bytes]:
    """Start an order in a process of its own."""
    path.write_bytes(order.SerializeToString())
    here = str(Path(__file__).resolve().parent)
    return subprocess.Popen([sys.executable, "-c", _RUN, here, str(path)])


def run_apart(order: RunOrder, path: Path) -> dict[int, float]:
    """Run an order in a process of its own to its end; return the loss of every step."""
    assert start_apart(order, path).wait(timeout=300) == 0
    return {int(step): float(loss) for step, loss in json.loads(Path(f"{path}.json").read_text())}


def losses(context: MemoryContext) -> list[float]:
    """Return the loss of every step."""
    return [item.loss for item in context.told if item.HasField("loss")]
