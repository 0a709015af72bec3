"""The SDK without `await`: the same nouns, methods and errors.

Each method runs its async twin on one private event-loop thread and waits for it,
so it works in scripts, in notebooks (whose cells run inside a loop already) and
from several threads. All modules here but `session.py` are written by
`clients/generate_sync.py` from the async ones; do not edit them.

Example:
    >>> with connect() as client:  # doctest: +SKIP
    ...     job = client.jobs.create("job.yaml")
    ...     for change in client.jobs.watch(job.name):
    ...         print(change)
"""

from tunefleet_client.sync.client import Client, connect

__all__ = ["connect", "Client"]
