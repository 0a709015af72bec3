"""What the fleet does at a moment, gathered from the coordinator and its gateway.

Rates come from two looks: steps and requests are counted by others, we divide by
the time between.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_cli.gateway_chat import trusting
from tunefleet_client import TERMINAL_STATES, Client

__all__ = ["FleetLook", "FleetWatcher"]

_ACTIVE = [state for state in JobState.values() if state and JobState.ValueType(state) not in TERMINAL_STATES]
_METRICS_SECONDS = 2.0
_DEVICES_SECONDS = 2.0
_REQUESTS = re.compile(r'^tunefleet_gateway_requests_total\{model="([^"]*)",.*\} (\d+)')
_MOST_JOBS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLook:
    """The fleet at a moment.

    Attributes:
        services: All that are known, by name.
        jobs: Those that have not ended.
        deployments: All.
        devices: Ids of the devices booked for a job, by its name, where that is not evident.
        requests: Requests answered so far, by deployment.
        steps_per_second: By name of the job; only jobs that were seen before.
        requests_per_second: By deployment; only between two looks.
        moment: By the clock that never goes back, seconds.
    """

    services: tuple[Service, ...]
    jobs: tuple[Job, ...]
    deployments: tuple[Deployment, ...]
    devices: Mapping[str, tuple[str, ...]]
    requests: Mapping[str, int]
    steps_per_second: Mapping[str, float] = field(default_factory=dict[str, float])
    requests_per_second: Mapping[str, float] = field(default_factory=dict[str, float])
    moment: float


class FleetWatcher:
    """Looks at the fleet again and again.

    Args:
        client: Of the coordinator.
        token: The gateway's key; empty: requests are not counted.
        authority: What the gateway's certificate is checked by, PEM; None: what this machine trusts.
    """

    def __init__(self, client: Client, *, token: str, authority: bytes | None = None) -> None:
        self._client = client
        self._token = token
        self._authority = authority
        self._last: FleetLook | None = None
        self._devices: dict[tuple[str, int], tuple[str, ...]] = {}

    async def look(self) -> FleetLook:
        """Return the fleet as it is now.

        Raises:
            TunefleetError: What the coordinator answered.
        """
        client = self._client
        services = tuple(sorted(await client.fleet.list(), key=lambda item: (item.kind, item.name)))
        jobs = await client.jobs.list(states=_ACTIVE, limit=_MOST_JOBS)
        deployments = await client.deployments.list(limit=_MOST_JOBS)
        devices: dict[str, tuple[str, ...]] = {}
        counts = {service.name: len(service.host.devices) for service in services}
        for job in jobs:
            if job.service and counts.get(job.service, 0) > 1:
                devices[job.name] = await self._devices_of(job)
        now, last = time.monotonic(), self._last
        requests = await self._requests(services)
        self._last = FleetLook(
            services=services,
            jobs=jobs,
            deployments=deployments,
            devices=devices,
            requests=requests,
            moment=now,
            steps_per_second=_step_rates(last, jobs, now),
            requests_per_second=_rates(last.requests, requests, now - last.moment) if last else {},
        )
        return self._last

    async def _devices_of(self, job: Job) -> tuple[str, ...]:
        """Return the devices booked for a job's attempt, as its history tells."""
        key = (job.uid, job.attempt)
        if key not in self._devices:
            try:
                async with (
                    asyncio.timeout(_DEVICES_SECONDS),
                    aclosing(self._client.jobs.watch(job.name)) as seen,
                ):
                    async for change in seen:
                        event = change.event
                        if event and event.attempt == job.attempt and event.HasField("attempt_started"):
                            self._devices[key] = tuple(event.attempt_started.device_ids)
                            break
            except TimeoutError:
                self._devices[key] = ()
        return self._devices.get(key, ())

    async def _requests(self, services: tuple[Service, ...]) -> Mapping[str, int]:
        addresses = [item.endpoints["openai"] for item in services if "openai" in item.endpoints]
        if not addresses or not self._token:
            return {}
        return await asyncio.to_thread(_read_requests, addresses[0], self._token, self._authority)


def _read_requests(address: str, token: str, authority: bytes | None) -> Mapping[str, int]:
    base = address if "://" in address else f"http://{address}"
    request = urllib.request.Request(base.removesuffix("/v1") + "/metrics")
    request.add_header("Authorization", f"Bearer {token}")
    # No proxy: the gateway of a laptop is loopback, whatever http_proxy says.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if base.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=trusting(authority)))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=_METRICS_SECONDS) as response:
            lines: list[str] = response.read().decode().splitlines()
    except (OSError, ValueError):
        return {}
    counts: dict[str, int] = {}
    for line in lines:
        match = _REQUESTS.match(line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + int(match[2])
    return counts


def _step_rates(last: FleetLook | None, jobs: tuple[Job, ...], now: float) -> Mapping[str, float]:
    if last is None:
        return {}
    before = {job.name: int(job.progress.step) for job in last.jobs if job.progress.total_steps}
    after = {job.name: int(job.progress.step) for job in jobs}
    return _rates(before, after, now - last.moment)


def _rates(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> Mapping[str, float]:
    if seconds <= 0:
        return {}
    return {name: max(0, count - before[name]) / seconds for name, count in after.items() if name in before}
