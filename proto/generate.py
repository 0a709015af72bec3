"""Generate the Python stubs below `proto/gen`.

The generator is pinned to grpcio-tools 1.66.2 on purpose: code it writes
imports on protobuf 5.29 to 7.x, so that backend environments with an older
protobuf can load the same stubs. `--check` fails if the committed stubs are stale.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "gen" / "tunefleet"
PACKAGE_DOC = '"""Generated from `proto/tunefleet`. Do not edit; run `make proto`."""\n'


def generate(target: Path) -> None:
    """Write stubs for every proto of tunefleet below `target`."""
    protos = sorted(str(path) for path in (HERE / "tunefleet").rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{HERE}",
        f"-I{HERE / 'third_party'}",
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *protos,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed: see the messages above")
    package = target / "tunefleet"
    for path in package.rglob("*_pb2_grpc.py*"):
        if not path.stem.endswith("_service_pb2_grpc"):
            path.unlink()  # the generator writes one per file, with or without a service
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__init__.py").write_text(PACKAGE_DOC)
    (package / "py.typed").write_text("")


def stale_files(fresh: Path, committed: Path) -> list[str]:
    """Return relative paths that differ between two trees."""
    names = {
        str(path.relative_to(root))
        for root in (fresh, committed)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(
        name
        for name in names
        if not (fresh / name).is_file()
        or not (committed / name).is_file()
        or not filecmp.cmp(fresh / name, committed / name, shallow=False)
    )


def main() -> None:
    """Generate, or check that what is committed is fresh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "tunefleet"
        if not check:
            shutil.rmtree(GENERATED, ignore_errors=True)
            shutil.copytree(fresh, GENERATED)
            return
        stale = stale_files(fresh, GENERATED)
        if stale:
            sys.exit("stubs are stale, run `make proto`: " + ", ".join(stale))


if __name__ == "__main__":
    main()
