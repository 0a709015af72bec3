"""How a request is refused."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """An HTTP status and a sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
