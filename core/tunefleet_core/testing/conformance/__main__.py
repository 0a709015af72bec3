"""Examine one backend from the command line, without the terminal client.

    python -m tunefleet_core.testing.conformance --profile '{"backend": "echo"}' --json out.json

Exits with 0 if it is conformant, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tunefleet_core.testing.conformance.examination import examine


def main() -> None:
    """Run the examination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", required=True, help="arguments of a Profile, as a JSON object")
    parser.add_argument("--suite", default="BackendConformance")
    parser.add_argument("--only", default="", help="an expression as after pytest's -k")
    parser.add_argument("--json", type=Path, help="where to write conformance.json")
    parser.add_argument("--junit", type=Path)
    arguments = parser.parse_args()
    report = examine(
        json.loads(arguments.profile),
        suite=arguments.suite,
        junit=arguments.junit,
        only=arguments.only,
        progress=lambda name, outcome: print(f"{outcome:8}{name}", flush=True),
    )
    for name, reason in report.failed.items():
        print(f"{name}: {reason}")
    print(f"{report.backend}: {report.sentence}")
    if arguments.json:
        arguments.json.write_text(report.to_json())
    sys.exit(0 if report.is_conformant else 1)


if __name__ == "__main__":
    main()
