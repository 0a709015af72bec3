"""A stand-in for a chat endpoint, on loopback: it says what a function says, and nothing of it is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType

__all__ = ["ChatStandIn"]


class ChatStandIn:
    """Answers `/v1/chat/completions` while it is open.

    Args:
        says: From the last message to the answer.
        cut: Messages whose answer is said to be cut.
        key: The key it asks for; empty: none.
        failures: How many requests it fails at first, with HTTP 503.
    """

    def __init__(
        self, says: Callable[[str], str], *, cut: Collection[str] = (), key: str = "", failures: int = 0
    ) -> None:
        self.asked = 0
        self.failures = failures
        outer = self
        counting = Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if key and self.headers.get("authorization") != f"Bearer {key}":
                    return self.answer(401, {"error": "no such key"})
                with counting:  # each request has a thread of its own
                    fails = outer.failures > 0
                    outer.failures -= fails
                    outer.asked += not fails
                if fails:
                    return self.answer(503, {"error": "busy"})
                said = body["messages"][-1]["content"]
                reason = "length" if said in cut else "stop"
                choice = {"message": {"role": "assistant", "content": says(said)}, "finish_reason": reason}
                return self.answer(200, {"choices": [choice]})

            def answer(self, status: int, content: object) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatStandIn:
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
