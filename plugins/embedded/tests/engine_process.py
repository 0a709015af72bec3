"""The engine as a real process, the way a server service starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from openai import AsyncOpenAI, OpenAI

_START_SECONDS = 120.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status and body of a plain HTTP answer."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class EngineProcess:
    """A context: starts the engine on a free port, waits for its READY line, ends it with SIGTERM."""

    def __init__(self, model: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tunefleet_embedded.engine", "--model", str(model), "--port", "0"]
        path = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(environment or {})}
        self._command = [*command, *options]
        self.log: deque[str] = deque(maxlen=200)

    def __enter__(self) -> EngineProcess:
        self.process = self._started()
        threading.Thread(target=self._read_log, daemon=True).start()
        killer = threading.Timer(_START_SECONDS, self.process.kill)
        killer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        killer.cancel()
        if not line.startswith("READY http://"):
            self.__exit__(None, None, None)
            raise RuntimeError("the engine did not get ready:\n" + "".join(self.log))
        self.url = line.removeprefix("READY ").strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except (subprocess.TimeoutExpired, TimeoutError):
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _started(self) -> Any:
        return subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def get(self, path: str, key: str | None = None) -> Reply:
        return self._ask(urllib.request.Request(f"{self.url}{path}"), key)

    def post(self, path: str, body: object, key: str | None = None) -> Reply:
        request = urllib.request.Request(f"{self.url}{path}", data=json.dumps(body).encode(), method="POST")
        return self._ask(request, key)

    def metrics(self) -> dict[str, float]:
        """Samples by their full name, labels included."""
        text = self.get("/metrics").text
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {re.sub(r"^tunefleet_engine_", "", name): float(value) for name, value in samples}

    def wait_until(self, sample: str, value: float, seconds: float = 20.0) -> None:
        """Waits until a metric has the value. Fails with the metrics when it never gets there."""
        deadline = time.monotonic() + seconds
        while (metrics := self.metrics()).get(sample) != value:
            assert time.monotonic() < deadline, f"{sample} never became {value}: {metrics}"
            time.sleep(0.01)

    def load(self, name: str, path: Path, **more: object) -> Reply:
        return self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **more})

    def unload(self, name: str) -> Reply:
        return self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def _ask(self, request: urllib.request.Request, key: str | None) -> Reply:
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Reply(status=answer.status, text=answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(status=error.code, text=error.read().decode())

    def _read_log(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        try:
            self.log.extend(stream)
        except ValueError:  # Closed while reading: the process has ended.
            return
