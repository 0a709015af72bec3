"""An exporter lets the backend that merges work first, in a rank process of its own: echo, here."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from tunefleet.backend.v1.run_pb2 import RankProgram, RunOrder, StopMode
from tunefleet.job.v1.resolved_pb2 import ResolvedBackend
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.merge_first import whole_weights

ECHO = RankProgram(python=sys.executable, rank_entry="tunefleet_echo.rank:EchoRank")


class Context:
    """As much of a RunContext as merging uses."""

    def __init__(self, order: RunOrder) -> None:
        self.order = order
        self.stop = StopMode.STOP_MODE_UNSPECIFIED
        self.notices: list[str] = []

    def stop_requested(self) -> StopMode.ValueType:
        return self.stop

    def notice(self, text: str, *, hint: str = "", severity: str = "warning") -> None:
        self.notices.append(text)


def order(tmp_path: Path, *, adapter: bool = True, **options: float) -> RunOrder:
    made = RunOrder(run="q-1", attempt=1, work_dir=str(tmp_path / "run"), merge_program=ECHO)
    made.resolved_spec.spec.export.quantize.format = "gptq"
    made.resolved_spec.spec.backend_options.update({"of": "the exporter"})
    made.resolved_spec.merge_backend.CopyFrom(ResolvedBackend(name="echo"))
    made.resolved_spec.base.path = "/models/base"
    if adapter:
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps({"step": 3, "state": "abc"}))
        made.adapter_dir = str(folder)
    return made


def test_an_adapter_is_merged_and_the_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with whole_weights(Context(order(tmp_path))) as folder:  # pyright: ignore[reportArgumentType]
        assert json.loads((folder / "model.json").read_text())["model_type"] == "echo"
        assert folder.is_relative_to(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_whole_model_is_read_where_it_lies(tmp_path: Path) -> None:
    context = Context(order(tmp_path, adapter=False))
    with whole_weights(context) as folder:  # pyright: ignore[reportArgumentType]
        assert folder == Path("/models/base")


def test_what_the_merging_backend_says_is_what_is_told(tmp_path: Path) -> None:
    made = order(tmp_path)
    (Path(made.adapter_dir) / "state.json").unlink()
    with pytest.raises(TunefleetError, match="no adapter of the echo backend") as caught:
        _merge(made)
    assert caught.value.reason is Reason.BASE_INVALID
    assert not list((tmp_path / "run").iterdir())


def test_a_merger_that_dies_is_told_by_its_exit(tmp_path: Path) -> None:
    made = order(tmp_path)
    made.merge_program.rank_entry = "tunefleet_echo.absent:Nothing"
    with pytest.raises(TunefleetError, match="exit code 1") as caught:
        _merge(made)
    assert caught.value.reason is Reason.BACKEND_FAILED


def test_an_adapter_without_a_merger_is_refused(tmp_path: Path) -> None:
    made = order(tmp_path)
    made.ClearField("merge_program")
    with pytest.raises(TunefleetError, match="nobody is named to merge"):
        _merge(made)


def test_a_stop_ends_the_merger_and_leaves_nothing(tmp_path: Path) -> None:
    context = Context(order(tmp_path))
    context.stop = StopMode.STOP_MODE_CANCEL
    with pytest.raises(RunStopped), whole_weights(context):  # pyright: ignore[reportArgumentType]
        raise AssertionError("it must not get that far")
    assert not list((tmp_path / "run").iterdir())
    assert "merging-rank" not in {thread.name for thread in threading.enumerate()}


def _merge(made: RunOrder) -> None:
    with whole_weights(Context(made)):  # pyright: ignore[reportArgumentType]
        raise AssertionError("it must not get that far")
