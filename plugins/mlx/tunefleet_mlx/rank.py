"""The rank: what the worker runs. Light to import; mlx comes with `warm` or with the first order."""

from __future__ import annotations

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import ExporterRank, RunContext

__all__ = ["MlxRank"]


class MlxRank(ExporterRank):
    """Trains with mlx-lm's layers, scores and merges, and writes models in MLX's format."""

    backend, formats = "mlx", ("mlx",)

    def warm(self) -> None:
        """Import what a run needs; no array, no device."""
        from tunefleet_mlx import warmup

        warmup.import_all()

    def run(self, context: RunContext) -> RunOutput:
        """Work on an order; see the contract."""
        spec = context.order.resolved_spec.spec
        if spec.WhichOneof("work") == "train":
            from tunefleet_mlx.training import train

            return train(context)
        if spec.WhichOneof("work") == "evaluate":
            from tunefleet_mlx.evaluation import evaluate_order

            return evaluate_order(context)
        if spec.export.WhichOneof("form") == "merge":
            from tunefleet_mlx.merging import export_merged

            return export_merged(context)
        return super().run(context)

    def write(self, context: RunContext) -> RunOutput:
        """Write a model in MLX's format; see `export.py`."""
        from tunefleet_mlx.export import export

        return export(context)

    def audit(self, order: AuditOrder) -> AuditResult:
        """Report the loss mask of data files; needs the tokenizer alone."""
        from tunefleet_core.rendering import audit

        return audit(order)
