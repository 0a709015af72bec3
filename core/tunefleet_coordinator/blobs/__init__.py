"""BlobService in a process of its own: bytes never travel through the coordinator.

Start reading at `servicer.py`; what lies on the disk is `tunefleet_core.artifacts.uploads`.
"""

from tunefleet_coordinator.blobs.server import BlobOptions, serve

__all__ = ["BlobOptions", "serve"]
