"""Returns something else than manifests."""

from tunefleet_core.plugins import hookimpl


@hookimpl
def tunefleet_backends():
    return [{"name": "rubbish"}, 42]
