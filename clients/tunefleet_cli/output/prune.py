"""How what goes, or would go, is shown."""

from __future__ import annotations

from tunefleet.artifact.v1.artifact_service_pb2 import PruneArtifactsResponse
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import bytes_text
from tunefleet_cli.output.table import Column, Table

__all__ = ["pruned_text", "show_prunable"]


_LONGEST_NAME = 28


def pruned_text(response: PruneArtifactsResponse) -> str:
    """Return how much it is, such as `3 items, 1.2 GiB`."""
    count = len(response.items)
    return f"{count:,} item{'s' if count != 1 else ''}, {bytes_text(response.freed_bytes)}"


def show_prunable(output: Output, response: PruneArtifactsResponse) -> None:
    """Print each item with its size and why nothing needs it, the largest first."""
    if output.is_json:
        output.message(response)
        return
    columns = [
        Column(title="KIND"),
        Column(title="SIZE", align="right"),
        Column(title="NAME", style="accent", rank=1),
        Column(title="WHY", wraps=True),
    ]
    rows = [
        [item.kind, bytes_text(item.size_bytes), _name(output, item.name), item.reason]
        for item in sorted(response.items, key=lambda item: -item.size_bytes)
    ]
    output.table(Table(columns=columns, rows=rows))


def _name(output: Output, name: str) -> str:
    """Return a name that leaves room for the reason: of a digest its start, of a path its end."""
    if not output.is_human or len(name) <= _LONGEST_NAME:
        return name
    return f"…{name[1 - _LONGEST_NAME :]}" if "/" in name else name[:12]
