"""TensorBoard: event files that its server reads, written without TensorFlow and without torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.tracking import project_of
from tunefleet_tracking.settings import settings

__all__ = ["TensorBoardTracker"]

_FLUSH_SECONDS = 5


class TensorBoardTracker:
    """Writes `<folder>/tensorboard/<project>/<run>`."""

    def begin(self, run: TrackedRun, key: str) -> str:
        """Open the event file and write the spec as a text."""
        project = Path(run.program.folder) / "tensorboard" / project_of(run.program.tracker)
        self._writer = EventFileWriter(str(project / run.name), flush_secs=_FLUSH_SECONDS)
        self._add(0, Summary(value=[_text("spec", json.dumps(settings(run), indent=1))]))
        return f"TensorBoard: tensorboard --logdir {project} shows the run '{run.name}'."

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write a scalar for each number."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._add(step, Summary(value=values))

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        """Write what is buffered."""
        self._writer.close()

    def _add(self, step: int, summary: Summary) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _text(tag: str, text: str) -> Summary.Value:
    """Return a text as TensorBoard's own writer makes it, indented so that it is shown as it is."""
    shown = "\n".join(f"    {line}" for line in text.splitlines())
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[shown.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
