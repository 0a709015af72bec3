"""`chat` speaks OpenAI HTTP: streamed, whole, and when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import samples
from cli_process import in_a_terminal, run, start

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec, DeploymentState
from tunefleet_cli.chat_session import ChatSession
from tunefleet_cli.gateway_chat import Gateway
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.errors import Reason, TunefleetError


class FakeGateway(ThreadingHTTPServer):
    """Answers with the last user message in upper case, one word per chunk."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, object]] = []
        self.pause_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_GET(self) -> None:
        self._send(200 if self.path == "/health" else 404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.headers["Authorization"] != "Bearer secret":
            self._send(401, b'{"error": {"message": "Wrong key.", "code": "invalid_api_key"}}')
        elif body["model"] == "nobody":
            self._send(404, b'{"error": {"message": "No model nobody.", "code": "model_not_found"}}')
        elif body["model"] == "broken":
            self._send(502, b"<html>")
        else:
            self._answer(body)

    def _answer(self, body: dict[str, object]) -> None:
        words = str(body["messages"][-1]["content"]).upper().split(" ")
        if not body.get("stream"):
            message = {"role": "assistant", "content": " ".join(words)}
            self._send(200, json.dumps({"choices": [{"message": message}]}).encode())
            return
        chunks = [{"choices": [{"delta": {"role": "assistant"}}]}]
        chunks += [{"choices": [{"delta": {"content": word}}]} for word in _spaced(words)]
        if body["model"] == "dies":
            chunks += [{"error": {"message": "The engine is gone."}}]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + [": a comment\n\n"]
        lines.append("data: [DONE]\n\n")
        self.send_response(200)
        self.send_header("Content-Length", str(sum(len(line.encode()) for line in lines)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that stops the answer
            for line in lines:
                self.wfile.write(line.encode())
                time.sleep(self.server.pause_seconds)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _spaced(words: list[str]) -> list[str]:
    return [words[0], *(f" {word}" for word in words[1:])]


@pytest.fixture
async def served(gateway: FakeGateway, fleet: FakeCoordinator, tmp_path: Path) -> FakeCoordinator:
    """A fleet in which `tickets` is a trained adapter and `base` the base of it."""
    fleet.write_state(tmp_path / "state", gateway=gateway.url)
    base = Deployment(
        name="projects/default/deployments/base",
        spec=DeploymentSpec(model=samples.models()[0].base_model),
        state=DeploymentState.DEPLOYMENT_STATE_READY,
    )
    fleet.deployments[base.name] = base
    return fleet


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    server = FakeGateway()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    FakeCoordinator().write_state(tmp_path / "state", gateway=server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_an_answer_is_streamed_to_stdout(gateway: FakeGateway) -> None:
    ended = await run(
        "chat", "models/tickets", "-m", "hello there", "--system", "Be brief.", "--max-tokens", "9"
    )
    assert (ended.code, ended.stdout, ended.stderr) == (0, "HELLO THERE\n", "")
    body = gateway.bodies[0]
    assert (body["model"], body["stream"], body["max_tokens"]) == ("tickets", True, 9)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello there"},
    ]


async def test_a_program_gets_the_whole_completion(gateway: FakeGateway) -> None:
    ended = await run("chat", "tickets", "-m", "-", "--json", stdin=b"from a pipe")
    document = json.loads(ended.stdout)
    assert document["kind"] == "openai.ChatCompletion"
    assert document["data"]["choices"][0]["message"]["content"] == "FROM A PIPE"


async def test_a_conversation_keeps_its_turns(gateway: FakeGateway) -> None:
    process = await start("chat", "tickets", stdin=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        stdout, _ = await process.communicate(b"one\n\ntwo\n")
    assert process.returncode == 0
    assert "ONE\n" in stdout.decode()
    assert [turn["role"] for turn in gateway.bodies[1]["messages"]] == ["user", "assistant", "user"]


async def test_the_base_answers_the_last_question_and_every_further_one(
    served: FakeCoordinator, gateway: FakeGateway
) -> None:
    ended = await run("chat", "tickets", stdin=b"one\n/compare base\ntwo\n/compare off\nthree\n")
    assert (ended.code, ended.stdout.split("\n")[0]) == (0, "ONE")
    assert [body["model"] for body in gateway.bodies] == [
        *("tickets", "tickets", "base"),
        *("tickets", "base"),
        "tickets",
    ]
    assert ended.stdout.count("── base") == 2
    turns = [turn["content"] for turn in gateway.bodies[-1]["messages"]]
    assert turns == ["one", "ONE", "two", "TWO", "three"], "the conversation goes on with one answer"


async def test_a_base_that_is_not_served_is_an_error_that_says_how_to_serve_it(
    served: FakeCoordinator,
) -> None:
    del served.deployments["projects/default/deployments/base"]
    ended = await run("chat", "tickets", stdin=b"/compare base\n")
    assert ended.code == 3
    assert "tunefleet deploy /models/Qwen3-0.6B --name base --wait" in ended.stderr


async def test_a_conversation_has_a_system_message_can_be_forgotten_and_saved(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    saved = tmp_path / "rows.jsonl"
    lines = f"/system Be brief.\none\n/save {saved}\n/reset\n//two\n/frob\n/help\n"
    ended = await run("chat", "tickets", stdin=lines.encode())
    assert ended.code == 0
    assert [turn["content"] for turn in gateway.bodies[1]["messages"]] == ["Be brief.", "/two"]
    row = json.loads(saved.read_text())
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert "There is no /frob." in ended.stderr
    assert "/compare base|NAME|off" in ended.stderr


async def test_every_turn_of_a_pipe_is_a_document_for_programs(gateway: FakeGateway) -> None:
    ended = await run("chat", "tickets", "--json", stdin=b"one\ntwo\n")
    answers = [json.loads(line)["data"]["choices"][0]["message"] for line in ended.stdout.splitlines()]
    assert [answer["content"] for answer in answers] == ["ONE", "TWO"]
    assert len(gateway.bodies[1]["messages"]) == 3


async def test_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.pause_seconds = 0.3
    # A key that comes before readline asks for it would be lost: wait for the prompt.
    keys = [("› ", "a b c d e f g h\r"), ("A B", "\x03"), ("› ", "again\r"), ("› ", "\x04")]
    shown, code = await asyncio.to_thread(in_a_terminal, "chat", "tickets", keys=keys)
    assert code == 0
    assert "G H" not in shown
    turns = gateway.bodies[1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"], "what came is kept"
    history = tmp_path / "state" / "chat_history"
    assert "again" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("model", "code", "what"),
    [
        ("nobody", 3, "No model nobody."),
        ("broken", 4, "The gateway answered 502."),
        ("dies", 1, "The engine is gone."),
    ],
)
async def test_a_refusal_is_shown_with_its_exit_code(
    gateway: FakeGateway, model: str, code: int, what: str
) -> None:
    ended = await run("chat", model, "-m", "hi")
    assert ended.code == code
    assert what in ended.stderr


def test_a_turn_that_was_refused_is_taken_back(gateway: FakeGateway, printed) -> None:
    session = ChatSession(
        output=printed().output,
        gateway=Gateway(url=gateway.url, token="secret"),
        model="dies",
        options={},
        find_base=lambda: "base",
    )
    with pytest.raises(TunefleetError, match="engine is gone"):
        session.take("hi")
    assert session.turns == []


def test_a_wrong_key_and_a_missing_gateway_have_reasons(gateway: FakeGateway) -> None:
    with pytest.raises(TunefleetError) as caught:
        list(Gateway(url=gateway.url, token="wrong").stream("m", [{"role": "user", "content": "x"}], {}))
    assert caught.value.reason is Reason.TOKEN_INVALID
    with pytest.raises(TunefleetError) as caught:
        Gateway(url="http://127.0.0.1:9", token="x").complete("m", [], {})
    assert caught.value.reason is Reason.UNAVAILABLE
