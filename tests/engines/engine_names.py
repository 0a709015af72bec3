"""Write what the installed engines know into core/tunefleet_core/catalog/engines.

    TUNEFLEET_VLLM_PYTHON=/path/to/python python tests/engines/engine_names.py

An engine is read by the Python that has it, named in TUNEFLEET_<ENGINE>_PYTHON; others are left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import tunefleet_core.catalog.engines as engines

__all__ = ["ENGINES", "registry_file", "registry_text", "variable"]

ENGINES = ("vllm", "sglang", "mlx")
_SECONDS = 600


def variable(engine: str) -> str:
    """Return the environment variable that names the Python of an engine."""
    return f"TUNEFLEET_{engine.upper()}_PYTHON"


def registry_file(engine: str) -> Path:
    """Return where the names of an engine are kept."""
    return Path(engines.__file__).parent / f"{engine}.json"


def registry_text(engine: str, python: str) -> str:
    """Return what the file of an engine should say, read by the Python that has it."""
    script = Path(__file__).resolve().parent / f"read_{engine}.py"
    done = subprocess.run(
        [python, str(script)],
        stdout=subprocess.PIPE,
        cwd=Path(python).parent,  # not this repository: its folders must not shadow the engine's modules
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=_SECONDS,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])  # engines print while they are imported
    return json.dumps(found, indent=1) + "\n"


def main() -> None:
    for engine in ENGINES:
        if python := os.environ.get(variable(engine)):
            registry_file(engine).write_text(registry_text(engine, python))
            print(f"wrote {registry_file(engine)}")


if __name__ == "__main__":
    main()
