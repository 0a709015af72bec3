"""Starts a process when it is imported and leaves it behind."""

import subprocess
import sys

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.plugins import hookimpl

CHILD = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)


@hookimpl
def tunefleet_backends():
    return [BackendManifest(name="leaks", contract_version=CONTRACT_VERSION)]
