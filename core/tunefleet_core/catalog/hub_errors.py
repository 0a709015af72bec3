"""What a failed call to the Hub means for whoever named the model.

Only imported where the Hub is asked: `huggingface_hub` is an optional library.
"""

from __future__ import annotations

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunefleet_core.catalog.refusal import base_invalid
from tunefleet_core.errors import Reason, TunefleetError, from_exception

__all__ = ["hub_refusal", "is_hub_failure"]

_DENIED = (401, 403)


def is_hub_failure(error: Exception) -> bool:
    """Return whether an exception came from the Hub or from the way to it, not from a local file."""
    known = (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, LocalEntryNotFoundError)
    return isinstance(error, known) or _is_transport(error)


def hub_refusal(error: Exception, model: str, revision: str = "") -> TunefleetError:
    """Return what a failed call to the Hub means.

    Args:
        error: What huggingface_hub or its transport raised.
        model: The Hub id that was asked for.
        revision: The revision; empty: the default one.
    """
    metadata = {"model": model, "revision": revision}
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    match cause:
        case OfflineModeIsEnabled():
            return _unreachable(model, "this host is told to stay offline (HF_HUB_OFFLINE)", metadata)
        case GatedRepoError():
            return _denied(model, "the Hub gives it only to those who accepted its terms", metadata)
        case RevisionNotFoundError():
            return base_invalid(
                f"'{model}' has no revision '{revision or 'main'}' on the Hub.",
                hint="Name a branch, a tag or a commit in base.revision.",
            )
        case RepositoryNotFoundError() | HFValidationError():
            return base_invalid(
                f"There is no model '{model}' on the Hub, or it is private, and no folder of that name here.",
                hint="Check the spelling; for a private model set HF_TOKEN where the trainer is started.",
            )
        case HfHubHTTPError() if cause.response.status_code in _DENIED:
            return _denied(model, f"the Hub answered {cause.response.status_code}", metadata)
        case HfHubHTTPError():
            return _unreachable(model, f"it answered {cause.response.status_code}", metadata)
        case _ if isinstance(cause, Exception) and is_hub_failure(cause):
            return _unreachable(model, str(cause).splitlines()[0] if str(cause) else "no answer", metadata)
        case _:
            return from_exception(error)


def _is_transport(error: Exception) -> bool:
    # The transport's module has changed its name between releases of huggingface_hub.
    return any(kind.__module__.partition(".")[0] in ("httpx", "httpx2") for kind in type(error).__mro__)


def _unreachable(model: str, why: str, metadata: dict[str, str]) -> TunefleetError:
    return TunefleetError(
        Reason.HUB_UNREACHABLE,
        f"'{model}' is not on this machine, and the model Hub cannot be reached: {why.rstrip('.')}.",
        hint="Go online, or give the folder of a downloaded model in base.model.",
        metadata=metadata,
    )


def _denied(model: str, why: str, metadata: dict[str, str]) -> TunefleetError:
    return TunefleetError(
        Reason.HUB_ACCESS_DENIED,
        f"'{model}' may not be downloaded: {why}.",
        hint=f"Accept its terms at https://huggingface.co/{model}, "
        "then start the trainer with HF_TOKEN set to a token of yours.",
        metadata=metadata,
    )
