"""Which engines load a checkpoint in a quantisation format: asked before one is started."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["engines_that_load"]


def engines_that_load(
    stored_as: str, engines: Sequence[BackendManifest], asked: str = ""
) -> list[BackendManifest]:
    """Return the engines that load a format, by what each says of itself.

    Args:
        stored_as: Name of the format, such as `gptq`.
        engines: The manifests of the fleet's engines.
        asked: The engine that is wanted; empty: any.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED if the one asked for does not load it, or none does.
    """
    able = [manifest for manifest in engines if stored_as in manifest.served_formats]
    names = {manifest.name for manifest in engines}
    is_refused = asked in names and asked not in {manifest.name for manifest in able}
    if not is_refused and (able or not engines or asked not in ("", *names)):
        return able or list(engines)  # an engine that nobody has is another refusal
    who = f"The engine '{asked}' does not load" if asked else "No engine of the fleet loads"
    instead = ", ".join(sorted(manifest.name for manifest in able))
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{who} models stored as {stored_as}.",
        hint=(f"Choose an engine that does ({instead})" if instead else "Install an engine that does")
        + ", or deploy the model that it was written from; who loads what: tunefleet catalog formats",
        metadata={"engine": asked, "format": stored_as},
    )
