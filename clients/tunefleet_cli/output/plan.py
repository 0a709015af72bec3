"""How a plan looks: what would run, why, on which tokens, in how much memory."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from tunefleet.job.v1.job_service_pb2 import PlanJobResponse
from tunefleet.job.v1.resolved_pb2 import Estimate, ResolvedSpec
from tunefleet_cli.output.audit import show_audit
from tunefleet_cli.output.chart import bar
from tunefleet_cli.output.notices import show_notices
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import bytes_text, count_text
from tunefleet_cli.output.table import Column, Table

__all__ = ["show_plan"]

_MOST_ROWS = 2


def show_plan(output: Output, plan: PlanJobResponse) -> None:
    """Print a plan, every section that has something to say."""
    if output.is_json:
        output.message(plan)
        return
    resolved = plan.resolved_spec
    output.facts(
        [
            ("plan", Text(resolved.spec.name, style="strong")),
            ("work", _work(resolved)),
            ("backend", f"{resolved.backend.name}  {resolved.backend.plugin}".strip()),
            ("template", _template(resolved)),
            ("digest", plan.resolved_spec_digest[:16]),
        ]
    )
    _show_values(output, resolved)
    _show_data(output, resolved)
    if resolved.HasField("mask_audit"):
        output.heading("What is trained")
        show_audit(output, resolved.mask_audit, rows=_MOST_ROWS)
    if resolved.estimate.peak_bytes:
        _show_estimate(output, resolved.estimate)
    show_notices(output, plan.notices)


def _work(resolved: ResolvedSpec) -> str:
    spec = resolved.spec
    asked = spec.evaluate.model if spec.HasField("evaluate") else spec.train.base
    base = Path(resolved.base.model or asked.model).name
    # A backend that inspects nothing leaves these at 0: unknown, not none.
    if resolved.base.parameter_count:
        base += f" ({count_text(resolved.base.parameter_count)} parameters)"
    if spec.HasField("evaluate"):
        return f"evaluate {base}"
    adapter = spec.train.adapter.WhichOneof("adapter") or "full fine-tuning"
    method = spec.train.method.WhichOneof("method") or ""
    modules = f", {len(resolved.target_modules)} target modules" if resolved.target_modules else ""
    return f"{method} {adapter} on {base}{modules}"


def _template(resolved: ResolvedSpec) -> str:
    template = resolved.chat_template
    return f"{template.family}, from {template.source}" if template.source else ""


def _show_values(output: Output, resolved: ResolvedSpec) -> None:
    if not resolved.values:
        return
    output.heading("Decided for you")
    columns = [
        Column(title="FIELD", style="accent"),
        Column(title="VALUE", style="strong"),
        Column(title="WHY", wraps=True),
    ]
    rows = [[item.field, item.value, item.reason] for item in resolved.values]
    output.table(Table(columns=columns, rows=rows))


def _show_data(output: Output, resolved: ResolvedSpec) -> None:
    if not resolved.data:
        return
    output.heading("Data")
    columns = [
        Column(title="FOR", style="accent"),
        Column(title="ROWS", align="right"),
        Column(title="SHA-256", style="faint", rank=1),
        Column(title="FILE", wraps=True),
    ]
    rows = [
        [item.role, f"{item.rows:,}" if item.rows else "–", item.sha256[:12], item.path]
        for item in resolved.data
    ]
    output.table(Table(columns=columns, rows=rows))


def _show_estimate(output: Output, estimate: Estimate) -> None:
    output.heading("Memory")
    peak = estimate.peak_bytes or 1
    parts = (
        ("weights", estimate.weights_bytes),
        ("optimiser", estimate.optimizer_bytes),
        ("activations", estimate.activation_bytes),
        ("peak", estimate.peak_bytes),
    )
    for name, size in parts:
        drawn = bar(size / peak, width=24)
        text = Text.assemble(f"{bytes_text(size):>10}  ", (drawn, "accent"))
        output.facts([(f"{name:<11}", text if output.is_human else Text(f"{bytes_text(size):>10}"))])
    if estimate.host_bytes:
        output.facts([("on the host", Text(f"{bytes_text(estimate.host_bytes):>10}"))])
    trainable = f"{count_text(estimate.trainable_parameters)} parameters, {estimate.total_steps:,} steps"
    output.facts([("trained    ", Text(trainable))])
