"""Which engines load a checkpoint in a quantisation format: asked before one is started."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import serving_scope
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["engines_that_load"]


def engines_that_load(
    stored_as: str, engines: Sequence[BackendManifest], asked: str = "", *, facts: BaseFacts | None = None
) -> list[BackendManifest]:
    """Return the engines that load a format, by what each says of itself.

    Args:
        stored_as: Name of the format, such as `gptq`.
        engines: The manifests of the fleet's engines.
        asked: The engine that is wanted; empty: any.
        facts: The checkpoint; None: not read yet, so nothing is known of its type and carrier.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED if the one asked for does not load it, or none does.
    """
    able = [manifest for manifest in engines if _loads(manifest, stored_as, facts)]
    names = {manifest.name for manifest in engines}
    is_refused = asked in names and asked not in {manifest.name for manifest in able}
    if not is_refused and (able or not engines or asked not in ("", *names)):
        return able or list(engines)  # an engine that nobody has is another refusal
    who = f"The engine '{asked}' does not load" if asked else "No engine of the fleet loads"
    carrier = facts.quantization.carrier if facts else ""
    carried = f" in {carrier}" if carrier not in ("", stored_as) else ""
    instead = ", ".join(sorted(manifest.name for manifest in able))
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{who} models stored as {stored_as}{carried}.",
        hint=(f"Choose an engine that does ({instead})" if instead else "Install an engine that does")
        + ", or deploy the model that it was written from; who loads what: tunefleet catalog formats",
        metadata={"engine": asked, "format": stored_as},
    )


def _loads(manifest: BackendManifest, stored_as: str, facts: BaseFacts | None) -> bool:
    scope = serving_scope(manifest, stored_as)
    if facts is not None and scope.model_types and facts.model_type not in scope.model_types:
        return False
    if facts is not None and scope.carriers and facts.quantization.carrier not in scope.carriers:
        return False
    return stored_as in manifest.served_formats
