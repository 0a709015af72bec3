"""The rank: what the worker runs. Light to import; torch comes with `warm` or with the first order."""

from __future__ import annotations

import logging
import warnings

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import TunefleetError
from tunefleet_trl.loading import hush_libraries

__all__ = ["DeepSpeedRank"]


class DeepSpeedRank:
    """Trains with DeepSpeed under TRL's trainer."""

    def __init__(self) -> None:
        hush_libraries()
        # It tells of every choice that it makes, each process for itself, and sets its own level.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
        # It counts accumulation itself, which another library finds worth a word.
        logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)
        # It calls torch by names that torch is about to drop.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")

    def warm(self) -> None:
        """Import what a run needs; no tensor, no device."""
        from tunefleet_deepspeed import warmup

        warmup.import_all()

    def run(self, context: RunContext) -> RunOutput:
        """Work on an order; see the contract."""
        work = context.order.resolved_spec.spec.WhichOneof("work")
        if work == "train":
            from tunefleet_deepspeed.training import train

            return train(context)
        raise TunefleetError.field("work", f"this backend does not know the work '{work}'")

    def audit(self, order: AuditOrder) -> AuditResult:
        """Report the loss mask of data files; needs the tokenizer alone."""
        from tunefleet_core.rendering import audit

        return audit(order)
