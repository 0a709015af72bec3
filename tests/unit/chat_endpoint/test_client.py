"""Asking a chat endpoint: again where it may help, else a clear error. The endpoint is a stand-in."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunefleet_core.chat_endpoint import ChatClient, secret_of
from tunefleet_core.errors import Reason, TunefleetError

sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "trl" / "tests"))
from chat_stand_in import ChatStandIn

ASK = [{"role": "user", "content": "red"}]


def client(url: str, *, retries: int = 3, key: str = "", timeout_seconds: float = 30.0) -> ChatClient:
    return ChatClient(
        url=url, model="m", key=key, retries=retries, timeout_seconds=timeout_seconds, sleep=lambda _: None
    )


def refusal(reason: Reason, call: Callable[[], object]) -> str:
    with pytest.raises(TunefleetError) as caught:
        call()
    assert caught.value.reason is reason
    assert caught.value.hint
    return caught.value.message


def test_answers_come_in_the_order_of_the_questions() -> None:
    questions = [[{"role": "user", "content": str(number)}] for number in range(20)]
    counts: list[int] = []
    with ChatStandIn(lambda said: said * 2, cut={"3"}) as fake:
        found = client(fake.url).answers(questions, max_tokens=4, told=counts.append)
    assert [item.text for item in found] == [str(number) * 2 for number in range(20)]
    assert [at for at, item in enumerate(found) if item.is_cut] == [3]
    assert counts == list(range(1, 21))


def test_a_failure_that_may_pass_is_asked_again() -> None:
    with ChatStandIn(lambda said: "rot", failures=2) as fake:
        assert client(fake.url).answer(ASK, max_tokens=4).text == "rot"
        fake.failures = 9
        told = refusal(Reason.UNAVAILABLE, lambda: client(fake.url).answer(ASK, max_tokens=4))
    assert "did not answer in 4 tries; last: HTTP 503" in told
    assert fake.failures == 5, "four tries and no more"


def test_a_key_that_is_refused_is_not_tried_again() -> None:
    with ChatStandIn(lambda said: "rot", key="right") as fake:
        assert client(fake.url, key="right").answer(ASK, max_tokens=4).text == "rot"
        told = refusal(
            Reason.PERMISSION_DENIED, lambda: client(fake.url, key="wrong").answer(ASK, max_tokens=4)
        )
    assert "no such key" in told
    assert "wrong" not in told, "a key is never shown"


def test_nobody_there_and_nobody_answering_are_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # takes connections and says nothing
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        asked = client(silent, retries=0, timeout_seconds=0.2)
        assert "did not answer in 1 tries" in refusal(
            Reason.UNAVAILABLE, lambda: asked.answer(ASK, max_tokens=4)
        )
    gone = client(silent, retries=1)
    assert "refused" in refusal(Reason.UNAVAILABLE, lambda: gone.answer(ASK, max_tokens=4))


def test_what_is_no_chat_completion_is_shown() -> None:
    def nothing(said: str) -> str:
        return None  # type: ignore[return-value]

    with ChatStandIn(nothing) as fake:
        told = refusal(Reason.BACKEND_FAILED, lambda: client(fake.url).answer(ASK, max_tokens=4))
    assert "answered something else than a chat completion" in told


def test_a_proxy_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ChatStandIn(lambda said: "rot") as fake:
        assert client(fake.url, retries=0).answer(ASK, max_tokens=4).text == "rot"


def test_secrets_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFLEET_SECRET_MINE", "s3cret")
    monkeypatch.setenv("HOME_KEY", "other")
    assert secret_of("", field="f") == ""
    assert secret_of("MINE", field="f") == "s3cret"
    told = refusal(Reason.FIELD_INVALID, lambda: secret_of("HOME_KEY", field="f"))
    assert told.startswith("f: names the secret 'HOME_KEY', which this trainer does not have")
    told = refusal(Reason.FIELD_INVALID, lambda: secret_of("sk-live-0123", field="f"))
    assert "sk-live" not in told
