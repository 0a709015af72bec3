"""Never answers when it is asked what it brings."""

import time

from tunefleet_core.plugins import hookimpl


@hookimpl
def tunefleet_backends():
    time.sleep(3600)
