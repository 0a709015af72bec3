"""Ends the process that describes it, without a word."""

import os
import sys

from tunefleet_core.plugins import hookimpl


@hookimpl
def tunefleet_backends():
    if "tunefleet_core.plugins.describe" in " ".join(sys.orig_argv):
        os._exit(7)
    return []
