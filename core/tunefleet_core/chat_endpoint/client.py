"""Ask an endpoint for answers: several questions at a time, with deadlines, and again where it may help."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["ChatAnswer", "ChatClient"]

_AT_ONCE = 8
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may not meet."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHOWN = 200
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """What an endpoint answered, and whether it was cut at the most tokens that were asked for."""

    text: str
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatClient:
    """Asks one model of one endpoint.

    Attributes:
        url: Where its API begins, such as `http://127.0.0.1:8000/v1`.
        model: What it calls the model.
        key: Its key; empty: none is sent.
        timeout_seconds: Longest wait for one answer.
        retries: How often a question is asked again after a failure that may pass.
        sleep: Waits between tries, given seconds.

    Example:
        >>> client = ChatClient(url="http://127.0.0.1:8000/v1", model="qwen")
        >>> client.answer([{"role": "user", "content": "Hi"}], max_tokens=16).text  # doctest: +SKIP
        'Hello!'
    """

    url: str
    model: str
    key: str = ""
    timeout_seconds: float = 120.0
    retries: int = 4
    sleep: Callable[[float], None] = time.sleep

    def answers(
        self,
        questions: Sequence[Sequence[Mapping[str, object]]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        told: Callable[[int], None] = lambda count: None,
    ) -> list[ChatAnswer]:
        """Return the answer to each conversation, in their order.

        Args:
            questions: Conversations, each as OpenAI's `messages`.
            max_tokens: Longest answer.
            temperature: 0: the likeliest answer.
            told: Called with the number of answers so far; an error that it raises ends the rest.

        Raises:
            TunefleetError: as `answer`.
        """

        def ask(messages: Sequence[Mapping[str, object]]) -> ChatAnswer:
            return self.answer(messages, max_tokens=max_tokens, temperature=temperature)

        found: list[ChatAnswer] = []
        pool = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="chat-endpoint")
        try:
            for answer in pool.map(ask, questions):
                found.append(answer)
                told(len(found))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def answer(
        self, messages: Sequence[Mapping[str, object]], *, max_tokens: int, temperature: float = 0.0
    ) -> ChatAnswer:
        """Return the answer to one conversation.

        Raises:
            TunefleetError: UNAVAILABLE if it does not answer after all tries, PERMISSION_DENIED for a
                key that it refuses, BACKEND_FAILED for what it refuses or says that is no answer.
        """
        body = json.dumps(
            {
                "model": self.model,
                "messages": messages,
                "max_tokens": max_tokens,
                "temperature": temperature,
            }
        ).encode()
        wait, why = _FIRST_WAIT_SECONDS, ""
        for attempt in range(self.retries + 1):
            if attempt:
                self.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            try:
                return self._read(self._post(body))
            except urllib.error.HTTPError as error:
                if error.code not in _PASSING:
                    raise self._refused(error) from error
                why = f"HTTP {error.code}: {_said(error)}"
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
        raise TunefleetError(
            Reason.UNAVAILABLE,
            f"The endpoint {self.url} did not answer in {self.retries + 1} tries; last: {why}",
            hint="See that it runs and that this trainer reaches it; the run goes on where it stopped.",
            metadata={"endpoint": self.url, "model": self.model},
        )

    def _post(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, data=body, headers=headers, method="POST")
        # A proxy of the environment does not know this host's loopback, and no redirect may see the key.
        proxies = dict[str, str]() if urlsplit(self.url).hostname in _LOOPBACK else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect())
        with opener.open(request, timeout=self.timeout_seconds) as response:
            return cast("bytes", response.read(_MOST_BYTES))

    def _read(self, answered: bytes) -> ChatAnswer:
        content: object = None
        is_cut = False
        try:
            choice = json.loads(answered)["choices"][0]
            content, is_cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            content = None  # told below
        if not isinstance(content, str):
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The endpoint {self.url} answered something else than a chat completion: "
                f"{answered[:_SHOWN].decode(errors='replace')!r}",
                hint="Name the address at which OpenAI's chat API begins, often ending in /v1.",
                metadata={"endpoint": self.url, "model": self.model},
            )
        return ChatAnswer(text=content, is_cut=is_cut)

    def _refused(self, error: urllib.error.HTTPError) -> TunefleetError:
        is_key = error.code in (401, 403)
        return TunefleetError(
            Reason.PERMISSION_DENIED if is_key else Reason.BACKEND_FAILED,
            f"The endpoint {self.url} refused the question: HTTP {error.code}: {_said(error)}",
            hint="Name a secret that it accepts in api_key."
            if is_key
            else "Correct the url and the model's name; the endpoint says what it does not take.",
            metadata={"endpoint": self.url, "model": self.model},
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object, **further: object) -> None:
        return None


def _said(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(4 * _SHOWN).decode(errors="replace")
    except OSError:
        return error.reason
    return " ".join(text.split())[:_SHOWN] or error.reason
