"""What a plugin author says about a backend so that the kit can examine it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.type.v1.engine_pb2 import EngineSettings

__all__ = ["Profile", "Transport", "capability_word"]


class Transport(StrEnum):
    """How the kit reaches a backend. If two of them differ, the one in between is wrong."""

    OBJECT = "object"
    """The servicer as an object of this process; only its rank processes and engines are apart."""
    WORKER = "worker"
    """A worker process of its own on a unix socket, as a service starts it."""
    ENDPOINT = "endpoint"
    """A server that somebody else has started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A backend to examine.

    Attributes:
        backend: Its name, as in its manifest.
        unsupported: Capabilities it does not declare, without prefix, each with the
            reason why; shown where their tests are skipped.
        options: `backend_options` of every run.
        engine_settings: How its engine runs, such as room for adapters where it must be told.
        python: Interpreter of the environment that holds it.
        command: Command line that serves the contract, for backends that do not use the
            Python base. `{socket}`, `{lease_seconds}` and `{owner_pid}` are filled in.
        endpoint: `unix:PATH` of a server that runs already; then nothing is started.
        varying_files: Names of output files whose bytes may differ between two equal runs.
        reads_base: Whether its engine reads the folder of the base; a fake may not.
        only: The one way to reach it by, where another backend with the same ranks is examined by all;
            None: every way there is.
        limit_seconds: Time limit of one test, generous.

    Example:
        >>> Profile(backend="mine", unsupported={"EVALUATE": "has no generation yet"}).backend
        'mine'
    """

    backend: str
    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    python: str = sys.executable
    command: tuple[str, ...] = ()
    endpoint: str = ""
    varying_files: frozenset[str] = frozenset()
    reads_base: bool = True
    only: Transport | None = None
    limit_seconds: float = 300.0

    def __post_init__(self) -> None:
        for word, reason in self.unsupported.items():
            if f"CAPABILITY_{word}" not in Capability.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
                raise ValueError(f"Profile.unsupported: there is no capability '{word}'")
            if not reason.strip():
                raise ValueError(f"Profile.unsupported: '{word}' needs a reason")

    def transports(self) -> tuple[Transport, ...]:
        """Return the ways in which this backend can be reached."""
        if self.endpoint:
            return (Transport.ENDPOINT,)
        if self.only is not None:
            return (self.only,)
        # An object can only be made where its plugin can be imported.
        has_object = not self.command and self.python == sys.executable
        return (Transport.OBJECT, Transport.WORKER) if has_object else (Transport.WORKER,)

    def why_not(self, capability: Capability.ValueType) -> str:
        """Return why a capability is not there."""
        word = capability_word(capability)
        return f"{word} is not declared: {self.unsupported.get(word, 'no reason given')}"


def capability_word(capability: Capability.ValueType) -> str:
    """Return a capability as people write it, such as `LORA`."""
    return Capability.Name(capability).removeprefix("CAPABILITY_")
