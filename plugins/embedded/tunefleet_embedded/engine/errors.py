"""Errors of the engine, in the shape that OpenAI clients parse."""

from __future__ import annotations


class ApiError(Exception):
    """A request that cannot be answered: HTTP status, sentence for the user, and the field that caused it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, object]:
        """The JSON body: `{"error": {message, type, param, code}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class AdapterRefused(Exception):
    """An adapter that this base or this engine cannot serve; nothing was changed.

    The text says why and what next.
    """


class ModelRefused(Exception):
    """A base model that this engine cannot serve. The text says why and what to do instead."""


def model_not_found(name: str, known: list[str]) -> ApiError:
    """404 for a model name that is neither the base nor a loaded adapter."""
    return ApiError(
        f"The model '{name}' does not exist here. Ask for one of: {', '.join(known)}.",
        status=404,
        kind="not_found_error",
        param="model",
        code="model_not_found",
    )
