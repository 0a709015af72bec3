"""Light stays light: the SDK needs gRPC and protobuf, and YAML only for job files."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = (
    *("torch", "transformers", "numpy", "datasets", "peft", "trl", "mlx", "safetensors"),
    *("rich", "aiohttp", "click", "yaml", "sqlalchemy", "alembic", "jsonschema", "openai"),
    *("tunefleet_cli", "tunefleet_coordinator", "tunefleet_services"),
)
_PROBE = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
"""
_WITHOUT_YAML = """
import sys
sys.modules["yaml"] = None
from tunefleet_client import InvalidArgument
from tunefleet_client.specs import _read
try:
    _read({})
except InvalidArgument as error:
    print(error.hint)
"""


@pytest.mark.parametrize("module", ["tunefleet_client", "tunefleet_client.sync"])
def test_importing_the_sdk_imports_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", _PROBE, module, ",".join(_HEAVY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_without_yaml_a_job_file_says_what_to_install() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_YAML], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout.strip() == "pip install pyyaml, or pass a JobSpec.", result.stderr
