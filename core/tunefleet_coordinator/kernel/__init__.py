"""The shell that puts the pure core between callers and the store."""

from tunefleet_coordinator.kernel.clock import Clock, SystemClock
from tunefleet_coordinator.kernel.kernel import Kernel
from tunefleet_coordinator.kernel.signals import Signal

__all__ = ["Clock", "Kernel", "Signal", "SystemClock"]
