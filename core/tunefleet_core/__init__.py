"""Contract and domain of tunefleet: no server, no terminal, no heavy library.

Start reading at `backend/contract.py` (what a backend is), `lifecycle/`
(how a job moves), `resolve/` (how a job file becomes what runs).
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["CONTRACT_VERSION", "__version__"]

CONTRACT_VERSION = 1
"""Version of backend/v1 and of the control protocol that this code speaks."""

try:
    __version__ = version("tunefleet")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0.0.0"
