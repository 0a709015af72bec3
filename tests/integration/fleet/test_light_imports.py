"""Light stays light: no process of the fleet but a rank process loads the heavy stack."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = ("torch", "transformers", "mlx", "numpy", "datasets", "peft", "trl", "safetensors", "cryptography")
_MODULES = (
    "tunefleet_coordinator.__main__",
    "tunefleet_services.trainer.__main__",
    "tunefleet_services.server.__main__",
    "tunefleet_services.gateway.__main__",
    "tunefleet_services.local",
    "tunefleet_cli.main",
    "tunefleet_client",
    "tunefleet_core.worker.host",
)

_PROBE = """
import importlib, pkgutil, sys
module = importlib.import_module(sys.argv[1])
package = importlib.import_module(sys.argv[1].partition(".")[0])
with_cryptography = ("tunefleet_coordinator.security.authority", "tunefleet_services.joining.keys")
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if found.name in with_cryptography:
        continue  # imported by fleets with TLS alone, where a certificate is made
    # Migrations are scripts that only run inside their runner.
    if ".migrations." not in found.name and ".testing" not in found.name and "__main__" not in found.name:
        importlib.import_module(found.name)
print(",".join(sorted(name for name in sys.argv[2].split(",") if name in sys.modules)))
"""


@pytest.mark.parametrize("module", _MODULES)
def test_light_module_loads_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", _PROBE, module, ",".join(_HEAVY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("module", ["tunefleet_core.worker.rank", "tunefleet_cli.main"])
def test_neither_rank_nor_command_line_loads_grpc_at_start(module: str) -> None:
    """A forking data loader beside live gRPC dies; and `tunefleet --help` has no time for it."""
    program = "import importlib, sys; importlib.import_module(sys.argv[1]); print('grpc' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program, module], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.stdout.strip() == "False", result.stderr


def test_what_runs_in_an_environment_of_a_backend_asks_for_nothing_of_the_coordinator() -> None:
    """Such an environment has the base dependencies, and what its own plugin brings."""
    program = """
import sys
for name in ("yaml", "jsonschema", "sqlalchemy", "alembic", "aiohttp", "click", "rich"):
    sys.modules[name] = None
import tunefleet_core.backend, tunefleet_core.worker.host, tunefleet_core.worker.rank
import tunefleet_echo.plugin
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
