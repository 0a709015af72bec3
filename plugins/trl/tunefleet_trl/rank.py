"""The rank: what the worker runs. Light to import; torch comes with `warm` or with the first order."""

from __future__ import annotations

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import TunefleetError
from tunefleet_trl.loading import hush_libraries

__all__ = ["TrlRank"]


class TrlRank:
    """Trains, evaluates and merges with TRL, PEFT and transformers."""

    def __init__(self) -> None:
        hush_libraries()

    def warm(self) -> None:
        """Import what a run needs; no tensor, no device."""
        from tunefleet_trl import warmup

        warmup.import_all()

    def run(self, context: RunContext) -> RunOutput:
        """Work on an order; see the contract."""
        work = context.order.resolved_spec.spec.WhichOneof("work")
        if work == "train":
            from tunefleet_trl.training import train

            return train(context)
        if work == "evaluate":
            from tunefleet_trl.evaluation import evaluate_order

            return evaluate_order(context)
        if work == "export":
            from tunefleet_trl.export import export

            return export(context)
        raise TunefleetError.field("work", f"this backend does not know the work '{work}'")

    def audit(self, order: AuditOrder) -> AuditResult:
        """Report the loss mask of data files; needs the tokenizer alone."""
        from tunefleet_core.rendering import audit

        if order.method == "reward":
            from tunefleet_trl.heads import require_head

            require_head(order.base)
        return audit(order)
