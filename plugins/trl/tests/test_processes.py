"""Several rank processes of one host are one run: the same losses, one voice, and no process left."""

from __future__ import annotations

import signal
from pathlib import Path

import process_lab
import pytest
import trl_lab as lab
from process_lab import EVERY, STEPS, alone, order_of, output_bytes, resumed

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, RunPhase
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_trl.processes import join_processes, require_world
from tunefleet_trl.rank import TrlRank

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> process_lab.Hosted:
    """An undisturbed run of two processes, with dropout, so that random state matters."""
    return process_lab.run_hosted(
        order_of(base, tmp_path_factory.mktemp("whole"), dropout=0.1), process_lab.ENTRY, processes=2
    )


@pytest.mark.parametrize(
    ("adaptation", "packing"),
    [
        ("lora", False),
        pytest.param("full", False, marks=pytest.mark.slow),
        pytest.param("lora", True, marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_as_one_does(base: Path, tmp_path: Path, adaptation: str, packing: bool) -> None:
    one = alone(order_of(base, tmp_path / "one", adaptation=adaptation, packing=packing))
    order = order_of(base, tmp_path / "two", adaptation=adaptation, packing=packing)

    async def save(hosted: process_lab.Hosted, event: JobEvent) -> None:
        if event.metrics.step == 1:
            await hosted.run.save(1)

    two = process_lab.run_hosted(order, process_lab.ENTRY, processes=2, watch=save)
    assert two.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, two.ended.error
    assert two.losses == pytest.approx(one["losses"], abs=TOLERANCE)
    assert two.validation_losses == pytest.approx(one["validation"], abs=TOLERANCE)
    assert [event.metrics.tokens for event in two.events if event.metrics.HasField("loss")] == one["tokens"]
    assert sum(event.HasField("preflight") for event in two.events) == 1
    assert len({round(loss, 3) for loss in two.losses.values()}) > STEPS // 2, "it learns something"
    usual = {*range(EVERY, STEPS, EVERY), STEPS}
    asked = [saved.step for saved in two.ended.checkpoints if saved.step not in usual]
    assert len(asked) <= 1, "a wish is answered by one checkpoint"
    saved = Path(order.work_dir) / "checkpoints" / f"step-{asked[0] if asked else EVERY:08d}"
    assert {"rng_state_0.pth", "rng_state_1.pth"} < {path.name for path in saved.iterdir()}
    assert "[rank 1]" not in two.printed, two.printed
    assert not list(Path(order.work_dir).glob("preflight*"))


@pytest.mark.slow  # up to three runs of two processes
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_attempt_and_the_next_ends_in_the_same_bytes(
    base: Path, tmp_path: Path, whole: process_lab.Hosted, victim: int
) -> None:
    order = order_of(base, tmp_path, dropout=0.1)
    has_saved = False

    async def kill(hosted: process_lab.Hosted, event: JobEvent) -> None:
        nonlocal has_saved
        has_saved = has_saved or event.HasField("checkpoint_saved")
        if has_saved and event.metrics.HasField("loss"):
            hosted.processes[victim].process.send_signal(signal.SIGKILL)

    killed = process_lab.run_hosted(order, process_lab.ENTRY, processes=2, watch=kill)
    assert killed.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    error = error_from_status(killed.ended.error)
    assert error.reason is Reason.WORKER_LOST, "it is retried"
    assert f"Rank process {victim} of 2 ended by signal SIGKILL" in error.message
    if victim == 0:
        return  # the other case goes on from what is on the disk then
    step = killed.ended.checkpoints[-1].step
    again = resumed(order, tmp_path / "again", step)
    process_lab.run_hosted(again, process_lab.ENTRY, processes=2)
    assert_same_output(again, whole)


def assert_same_output(order: RunOrder, whole: process_lab.Hosted) -> None:
    expected = output_bytes(whole.order)
    found = output_bytes(order)
    assert found.keys() == expected.keys()
    assert found["adapter_model.safetensors"] == expected["adapter_model.safetensors"]


@pytest.mark.slow  # two runs of two processes
def test_a_pause_saves_one_state_of_all_and_the_run_goes_on_from_it(
    base: Path, tmp_path: Path, whole: process_lab.Hosted
) -> None:
    order = order_of(base, tmp_path, dropout=0.1)
    asked = False

    async def pause(hosted: process_lab.Hosted, event: JobEvent) -> None:
        nonlocal asked
        if event.metrics.step == 1 and not asked:
            asked = True
            await hosted.run.stop(StopMode.STOP_MODE_SAVE)

    paused = process_lab.run_hosted(order, process_lab.ENTRY, processes=2, watch=pause)
    assert paused.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED, paused.ended.error
    step = paused.ended.checkpoints[-1].step
    assert step < STEPS
    again = resumed(order, tmp_path / "again", step)
    ended = process_lab.run_hosted(again, process_lab.ENTRY, processes=2)
    assert list(ended.losses) == list(range(step + 1, STEPS + 1))
    assert_same_output(again, whole)


@pytest.mark.slow  # a run of two processes; that several end at once is proven fast with a light rank
def test_a_cancel_ends_both_processes(base: Path, tmp_path: Path) -> None:
    order = order_of(base, tmp_path)
    order.resolved_spec.spec.train.optim.max_steps = 100_000

    async def cancel(hosted: process_lab.Hosted, event: JobEvent) -> None:
        if event.phase_changed.phase == RunPhase.RUN_PHASE_WORKING and not hosted.run.is_ended:
            await hosted.run.stop(StopMode.STOP_MODE_CANCEL)

    cancelled = process_lab.run_hosted(order, process_lab.ENTRY, processes=2, watch=cancel)
    assert cancelled.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED, cancelled.ended.error
    assert not (Path(order.work_dir) / "output").exists()


def test_another_number_of_processes_than_the_job_asks_for_is_an_error(base: Path, tmp_path: Path) -> None:
    order = order_of(base, tmp_path)
    order.resolved_spec.spec.resources.devices = 2
    for call in (lambda: join_processes(order, "cpu"), lambda: require_world(1, order)):
        with pytest.raises(TunefleetError, match="asks for 2 devices, and 1 ") as caught:
            call()
        assert caught.value.reason is Reason.BACKEND_FAILED
        assert caught.value.metadata["world_size"] == "1"
    with pytest.raises(TunefleetError, match="1 rank processes were started"):
        TrlRank().run(lab.MemoryContext(order))
