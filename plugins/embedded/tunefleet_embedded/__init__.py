"""The embedded inference engine of tunefleet, as a plugin distribution.

Importing this package is cheap: torch, transformers and aiohttp are imported only inside
`tunefleet_embedded.engine`, which runs in a process of its own (`python -m tunefleet_embedded.engine`).
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
