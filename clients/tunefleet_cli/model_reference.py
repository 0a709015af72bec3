"""What a person means by MODEL: a trained one, a folder here, or a Hub id."""

from __future__ import annotations

from pathlib import Path

__all__ = ["model_reference"]


def model_reference(text: str) -> str:
    """Return a model as specs name it.

    A path that exists here (or is written as one) becomes absolute, since the
    coordinator has another current folder; a bare word is a trained model.

    Example:
        >>> model_reference("tickets-ab12")
        'models/tickets-ab12'
        >>> model_reference("Qwen/Qwen3-0.6B")
        'Qwen/Qwen3-0.6B'
    """
    match text.split("/"):
        case ["models", _]:
            return text
        case ["projects", _, "models", name]:
            return f"models/{name}"
        case _:
            pass
    is_path = text.startswith((".", "/", "~")) or ("/" in text and Path(text).is_dir())
    if is_path:
        return str(Path(text).expanduser().absolute())
    return text if "/" in text else f"models/{text}"
