"""What `tracking` must satisfy: names, addresses without keys, and who takes which field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from tunefleet.job.v1.spec_pb2 import JobSpec, Tracker
from tunefleet_core.chat_endpoint import is_secret_name

__all__ = ["tracking_violations"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # it may become a folder
_FILES_ALONE = ("tensorboard", "trackio")


def tracking_violations(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield field and what is wrong with it."""
    if spec.tracking and spec.WhichOneof("work") not in ("train", None):
        yield "tracking", "follows the steps of training, and this job has none; leave it out"
    seen: set[str] = set()
    for index, tracker in enumerate(spec.tracking):
        field = f"tracking[{index}]"
        if tracker.name in seen:
            yield f"{field}.name", f"names {tracker.name} a second time"
        seen.add(tracker.name)
        yield from _tracker(tracker, field)


def _tracker(tracker: Tracker, field: str) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(tracker.name):
        yield f"{field}.name", "is missing; write tensorboard, wandb, mlflow or trackio"
    if tracker.project and not _PROJECT.fullmatch(tracker.project):
        yield f"{field}.project", "must be 1 to 128 letters, digits, dots, hyphens and underscores"
    if tracker.entity and not _PROJECT.fullmatch(tracker.entity):
        yield f"{field}.entity", "must be 1 to 128 letters, digits, dots, hyphens and underscores"
    if tracker.entity and tracker.name in (*_FILES_ALONE, "mlflow"):
        yield f"{field}.entity", f"is nothing that {tracker.name} knows; leave it out"
    if tracker.name in _FILES_ALONE:
        for name in ("url", "api_key"):
            if getattr(tracker, name):
                yield (
                    f"{field}.{name}",
                    f"is for trackers with a server, and {tracker.name} keeps files alone",
                )
        return
    if tracker.url:
        yield from _url(tracker.url, f"{field}.url")
    if tracker.api_key and not is_secret_name(tracker.api_key):
        yield (
            f"{field}.api_key",
            "must be the name of a secret in capital letters, digits and underscores, never the key itself",
        )
    if tracker.name == "mlflow" and tracker.api_key and not tracker.url:
        yield f"{field}.url", "is missing; a key is for a server"


def _url(url: str, field: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(url)
    except ValueError:
        yield field, "is no address"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield field, "must begin with http:// or https:// and name a host"
    elif parts.username is not None or parts.query:
        yield field, "must not hold a name, a key or a query; name the key's secret in api_key"
