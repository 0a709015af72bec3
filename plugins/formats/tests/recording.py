"""Keep what a library wrote, without its weights: config, headers with byte ranges, versions.

The light tests hold the formats to these files, byte for byte; the libraries themselves are
needed only to write them again, with the `record_*.py` beside this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded")

Entry = dict[str, Any]
"""What is kept of a tensor: `dtype`, `shape`, `bytes`."""


def read_headers(folder: Path) -> dict[str, Entry]:
    """Return the tensors of a folder's safetensors files, by name."""
    tensors: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            tensors[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "bytes": end - start}
    return tensors


def record(
    name: str,
    *,
    made_by: str,
    libraries: Sequence[str],
    config: Entry,
    tensors: dict[str, Entry],
    files: Sequence[str],
) -> Path:
    """Write one recorded checkpoint, a line to a tensor so that a change shows what changed."""
    head = {
        "made_by": made_by,
        "libraries": {library: version(library) for library in libraries},
        "config": config,
        "files": sorted(files),
    }
    lines = [f"  {json.dumps(item)}: {json.dumps(tensors[item])}" for item in sorted(tensors)]
    body = json.dumps(head, indent=1, sort_keys=True).removesuffix("\n}")
    path = RECORDED / f"{name}.json"
    path.write_text(f'{body},\n "tensors": {{\n' + ",\n".join(lines) + "\n }\n}\n")
    return path


def record_folder(name: str, folder: Path, *, made_by: str, libraries: Sequence[str]) -> Path:
    """Record a model folder with config.json and safetensors files."""
    files = [path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    return record(
        name,
        made_by=made_by,
        libraries=libraries,
        config=config,
        tensors=read_headers(folder),
        files=files,
    )
