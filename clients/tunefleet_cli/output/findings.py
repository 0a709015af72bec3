"""How the checks of the doctor look."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tunefleet_cli.findings import Finding
from tunefleet_cli.output.output import Output, hanging
from tunefleet_cli.output.theme import state_text

__all__ = ["show_findings"]


def show_findings(output: Output, findings: Sequence[Finding]) -> None:
    """Print the checks of the doctor, each with its fix."""
    if output.is_json:
        output.document("tunefleet.Doctor", {"checks": [finding.fields() for finding in findings]})
        return
    longest = max(len(finding.check) for finding in findings)
    for finding in findings:
        name = f"{finding.check:<{longest}}"
        if output.is_human:
            output.show(hanging(state_text(finding.status, label=f"{name}  "), Text(finding.text)))
        else:
            output.line(f"{finding.status:<7} {name}  {finding.text}")
        if finding.fix:
            fix = hanging(Text("  fix: ", style="faint"), Text(finding.fix, style="accent"))
            output.show(fix) if output.is_human else output.line(f"  fix: {finding.fix}")
