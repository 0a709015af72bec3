"""A fake model Hub on loopback: no test may need the real one.

It speaks as much of the Hub's HTTP as huggingface_hub asks of it for models: a
revision's files with sizes, the tree of a commit, files with ranges, and the answers
for what is missing, gated, or slow. Requests are kept, so that a test can say what
was fetched and what was not.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass(slots=True, kw_only=True)
class FakeHub:
    """What the fake serves and what it was asked."""

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    piece_delay_seconds: float = 0.0
    is_down: bool = False
    address: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes sent, by file name."""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve on a free port until the block ends."""

    class Handler(_Handler):
        fake = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.fake.is_down:
            self._refuse(503, "Unavailable", body=body)
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        if is_api:
            parts = parts[2:]
        name = "/".join(parts[:2])
        folder = self.fake.models.get(name)
        if folder is None:
            self._refuse(404 if self._knows() else 401, "RepoNotFound", body=body)
        elif is_api:
            self._tell(folder, parts[2:], body=body)
        elif name in self.fake.gated and not self._knows():
            self._refuse(403, "GatedRepo", body=body)
        else:
            self._send(folder / "/".join(parts[4:]), body=body)

    def _knows(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {self.fake.token}"

    def _tell(self, folder: Path, rest: list[str], *, body: bool) -> None:
        kind, revision = [*rest, "revision", "main"][:2] if rest else ("revision", "main")
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", body=body)
            return
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if kind == "tree":
            answer: object = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _oid(path)}
                for path in files
            ]
        else:
            siblings = [{"rfilename": path.name, "size": path.stat().st_size} for path in files]
            answer = {"id": "x/y", "sha": COMMIT, "siblings": siblings}
        self._write(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body=body)

    def _send(self, path: Path, *, body: bool) -> None:
        if not path.is_file():
            self._refuse(404, "EntryNotFound", body=body)
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(path)}"', "Accept-Ranges": "bytes"}
        status = 200
        if span := self.headers.get("range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        self._write(status, content, headers, body=body, name=path.name)

    def _refuse(self, status: int, code: str, *, body: bool) -> None:
        self._write(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, body=body)

    def _write(
        self, status: int, content: bytes, headers: dict[str, str], *, body: bool, name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        try:
            for start in range(0, len(content), 1 << 20):
                piece = content[start : start + (1 << 20)]
                self.wfile.write(piece)
                if name:
                    self.fake.sent[name] = self.fake.sent.get(name, 0) + len(piece)
                if self.fake.piece_delay_seconds and name.endswith(".safetensors"):
                    time.sleep(self.fake.piece_delay_seconds)
        except (BrokenPipeError, ConnectionResetError):
            return  # the reader had enough


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
