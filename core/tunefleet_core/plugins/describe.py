"""Print what the plugins of this environment offer, as one line of JSON.

Run as `python -m tunefleet_core.plugins.describe` in a backend's environment, whose
packages nobody else imports. Standard output belongs to the one line. With `--names`
the line holds the names of the plugins alone, and none of them is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import distributions
from typing import Any
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format

from tunefleet_core.plugins.conformance_report import installed_report
from tunefleet_core.plugins.faults import watched
from tunefleet_core.plugins.loading import PluginSet, load_plugins, plugin_names

__all__ = ["describe", "editable_sources", "main"]


def describe(plugins: PluginSet) -> dict[str, object]:
    """Return the manifests of the backends, and the plugins that failed, as JSON values."""
    return {
        "backends": [
            json_format.MessageToDict(manifest, preserving_proto_field_name=True)
            for manifest in plugins.backends()
        ],
        "conformance": {
            record.backends[0]: report.sentence
            for record in plugins.records
            if record.backends and (report := installed_report(record.dist)) is not None
        },
        "sources": editable_sources(),
        "failed": [
            {
                "name": record.name,
                "dist": record.dist,
                "version": record.version,
                "status": record.status.value,
                "error": record.error,
                "hint": record.hint,
            }
            for record in plugins.failed()
        ],
    }


def editable_sources() -> list[str]:
    """Return the folders of distributions installed for development: what they offer can change.

    Recorded by the installer in `direct_url.json` (PEP 610).
    """
    found: set[str] = set()
    for distribution in distributions():
        origin = distribution.read_text("direct_url.json")
        record: dict[str, Any] = json.loads(origin) if origin else {}
        if record.get("dir_info", {}).get("editable"):
            found.add(unquote(urlsplit(str(record["url"])).path))
    return sorted(found)


def main() -> None:
    """Write the description to standard output."""
    with _own_stdout() as stdout:
        if sys.argv[1:] == ["--names"]:
            line = json.dumps({"plugins": plugin_names()})
        else:
            line = json.dumps(describe(load_plugins(guard=watched)), sort_keys=True)
        with os.fdopen(stdout, "w", encoding="utf-8", closefd=False) as stream:
            stream.write(line + "\n")


@contextmanager
def _own_stdout() -> Generator[int]:
    """Yield a descriptor of the real standard output; descriptor 1 is standard error from here on.

    It stays so after the block: handlers that run at exit may print as well.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield real
    finally:
        os.close(real)


if __name__ == "__main__":
    main()
