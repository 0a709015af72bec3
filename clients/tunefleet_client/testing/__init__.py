"""For tests of code that uses the SDK: a coordinator with canned answers.

A real gRPC server on a free loopback port, so that nothing of the client is
replaced; only what it talks to is.
"""

from tunefleet_client.testing.fake_coordinator import FakeCoordinator

__all__ = ["FakeCoordinator"]
