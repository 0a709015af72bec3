"""What a test asks an engine directly, over its OpenAI HTTP."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

LIMIT_SECONDS = 30


def ask(address: str, model: str, text: str, *, token: str = "") -> str:
    """Return the answer to one question, as likely as it gets."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 16,
        "temperature": 0,
    }
    answer = _open(f"{address}/v1/chat/completions", json.dumps(body).encode(), token)
    return str(answer["choices"][0]["message"]["content"])


def models(address: str, *, token: str = "") -> set[str]:
    """Return the model names."""
    return {str(card["id"]) for card in _open(f"{address}/v1/models", None, token)["data"]}


def _open(url: str, data: bytes | None, token: str) -> Any:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=LIMIT_SECONDS) as response:
        return json.load(response)
