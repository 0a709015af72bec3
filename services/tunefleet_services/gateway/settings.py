"""Limits and names of a gateway; every default is one that a person need not change."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GatewaySettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """How much a gateway takes, and how long it waits.

    Attributes:
        allowed_hosts: Host names, without port, that requests may name beside loopback ones.
        allowed_origins: Origins, as `https://app.example`, whose pages may send requests.
        max_body_bytes: Longest request body, after decompression.
        max_file_bytes: Longest file of rows; it waits on disk, not in memory.
        max_in_flight: Requests passed on at one time; the next is told to come back.
        requests_per_minute: Requests of one API token in a minute, evenly spread, with the first
            ten seconds' worth at once; 0: no bound.
        requests_at_once: Requests of one API token that are worked on at one time; 0: no bound.
        connect_seconds: Longest wait for a connection to an engine.
        idle_seconds: Longest silence inside a stream, of the engine or of the client.
        answer_seconds: Longest silence before an answer that is not streamed: the engine says
            nothing until it has generated all of it. The `openai` client waits as long.
        report_seconds: How often the coordinator is told what versions that are rolled out answered.
        drain_seconds: How long running answers may go on after the gateway was told to stop.
    """

    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    max_body_bytes: int = 16 * 1024 * 1024
    max_file_bytes: int = 512 * 1024 * 1024
    max_in_flight: int = 1024
    requests_per_minute: int = 0
    requests_at_once: int = 0
    connect_seconds: float = 2.0
    idle_seconds: float = 120.0
    answer_seconds: float = 600.0
    report_seconds: float = 2.0
    drain_seconds: float = 10.0
