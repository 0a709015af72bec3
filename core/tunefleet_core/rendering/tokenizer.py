"""Load the tokenizer of a base folder: offline, no code of the folder. Needs transformers, not torch."""

# transformers is in the environments of backends only.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["first_line", "load_tokenizer", "unusable_base"]


def load_tokenizer(base: BaseFacts) -> Any:
    """Load the tokenizer of a base folder.

    Raises:
        TunefleetError: BASE_INVALID if there is none, or none that knows where tokens
            lie in the text, without which there is no loss mask.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unusable_base(base, f"its tokenizer cannot be loaded: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise unusable_base(base, "its tokenizer has no tokenizer.json, so no loss mask can be made")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def unusable_base(base: BaseFacts, why: str) -> TunefleetError:
    """Return the refusal of a base folder."""
    return TunefleetError(
        Reason.BASE_INVALID,
        f"The base '{base.model or base.path}' cannot be used: {why}.",
        hint="Complete the folder, or name another base in train.base.model.",
        metadata={"path": base.path},
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
