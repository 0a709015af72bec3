"""Take secrets out of text that leaves this machine.

Two ways, since neither suffices: every secret that this machine knows (tokens of
the state folder, secret-looking variables) by its own text, and everything that
looks like one by its form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Redaction", "is_secret_name"]

_HIDDEN = "[redacted]"
_LEAST_LENGTH = 6
"""Shorter texts would be found everywhere."""
_SECRET_NAME = re.compile(
    r"token(?!iz)|secret|password|passwd|credential|api_?key|access_?key|private_?key", re.I
)
_KEY = "[A-Z ]*PRIVATE KEY"
_FORMS = (
    re.compile(r"(?P<keep>\bBearer\s+)[^\s\"',;\\]+", re.I),
    re.compile(r"(?P<keep>\bauthorization[\"']?\s*[:=]\s*[\"']?)[^\"',;\\}\n]+", re.I),
    re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+(?=@)", re.I),
    re.compile(
        r"(?P<keep>)\b(?:tf(?:s|j|join1|login1)?_|hf_|sk-|ghp_|github_pat_|xox[a-z]-)[A-Za-z0-9_-]{8,}"
    ),
    re.compile(r"(?P<keep>)\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(
        r"(?P<keep>)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
    ),
    re.compile(
        r"(?P<keep>\b[\w-]*(?:token(?!iz)|secret|password|passwd|api_?key|access_?key)[\w-]*[\"']?\s*[:=]\s*[\"']?)"
        r"[^\s\"',;&}\\]{6,}",
        re.I,
    ),
)
_NO_SECRETS = re.compile(r"^(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|true|false|null|none)$", re.I)
"""What a number of tokens looks like: `max_tokens=1234567`."""


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name holds a secret."""
    return bool(_SECRET_NAME.search(name))


class Redaction:
    """Replaces secrets in texts.

    Args:
        folder: State folder, whose `*.token` files are known secrets.
        environment: Variables; those with secret names are known secrets.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        known = {value for name, value in environment.items() if is_secret_name(name)}
        for file in folder.glob("*.token"):
            try:
                known.update(file.read_text(errors="replace").split())
            except OSError:
                continue
        # The longest first: one secret may be the start of another.
        self._known = sorted((item for item in known if len(item) >= _LEAST_LENGTH), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return text without secrets."""
        for secret in self._known:
            text = text.replace(secret, _HIDDEN)
        for form in _FORMS:
            text = form.sub(_replacement, text)
        return text


def _replacement(match: re.Match[str]) -> str:
    kept = match["keep"]
    value = match[0][len(kept) :]
    return match[0] if _NO_SECRETS.match(value) else f"{kept}{_HIDDEN}"
