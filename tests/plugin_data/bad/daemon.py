"""Starts a process that no parent knows, which only its environment gives away."""

import os
import subprocess
import sys

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.plugins import hookimpl

_FORK_TWICE = (
    "import subprocess, sys; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'], start_new_session=True)"
)


@hookimpl
def tunefleet_backends():
    if "tunefleet_core.plugins.describe" in " ".join(sys.orig_argv):
        subprocess.run([sys.executable, "-c", _FORK_TWICE], env=dict(os.environ), check=True)
    return [BackendManifest(name="daemon", contract_version=CONTRACT_VERSION)]
