"""Refuse a job that asks for a tracker which nobody who would run it can tell anything."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["require_trackers"]

_ACTIVE = "ACTIVE"
_PLUGIN = "tracking"
"""The plugin that brings the trackers which most people use."""


def require_trackers(spec: JobSpec, services: Sequence[Service], *, backend: str) -> None:
    """Refuse trackers that no trainer with the backend of the job has a plugin for.

    A trainer that lacks one all the same says so in the job's events: tracking stops no run.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED naming the field and the trackers that there are.
    """
    if not spec.tracking:
        return
    known = {
        tracker
        for service in services
        if service.kind == ServiceKind.SERVICE_KIND_TRAINER and backend in _active(service)
        for installed in _active(service).values()
        for tracker in installed
    }
    for index, tracker in enumerate(spec.tracking):
        if tracker.name in known:
            continue
        field = f"tracking[{index}].name"
        there = f"; there are {', '.join(sorted(known))}" if known else ""
        raise TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"{field}: no trainer that has the backend '{backend}' can tell anything to '{tracker.name}'"
            f"{there}.",
            hint="Name another one, or leave it out."
            if known
            else f"On the trainer: tunefleet plugins install {_PLUGIN}",
            metadata={"backend": _PLUGIN, "field": field, "tracker": tracker.name},
            violations=(FieldViolation(field=field, description="needs a trainer with a plugin for it"),),
        )


def _active(service: Service) -> dict[str, Sequence[str]]:
    """Return the trackers of each active backend by its name."""
    return {item.manifest.name: item.manifest.trackers for item in service.backends if item.status == _ACTIVE}
