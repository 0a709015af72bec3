"""Whatever a file or a word of ours holds, what reads it takes or refuses it: no other exception.

Job files, rows, model folders, bodies of the gateway and overrides have such tests beside their own.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_cli.arguments import age_seconds
from tunefleet_cli.checks import host
from tunefleet_cli.checks.members import check_members
from tunefleet_cli.checks.place import Place
from tunefleet_cli.commands.rollouts import _read_steps
from tunefleet_client.login import login_file, read_login
from tunefleet_client.state import read_endpoints, read_token
from tunefleet_core.environments import EnvironmentIndex
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.invitations import Invitation, InvitationKind
from tunefleet_core.layer_range import layer_range
from tunefleet_core.parity import read_contract

_KEYS = st.sampled_from(
    [
        *("user", "service", "gateway", "authority", "pid", "x"),
        *("environments", "trl", "digest", "python", "plugins"),
        *("name", "kind", "hosts", "service_address", "user_address", "begin_time", "expire_time"),
        *("version", "base_digest", "conversations", "probes"),
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)
_FILES = st.one_of(
    st.binary(max_size=60),
    _VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_KEYS, _VALUES, max_size=8).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 100_000),
    st.just(b'{"environments": {"trl": {"digest": "d", "python": "/x", "plugins": ["trl"]}}}'),
)
_EACH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _environments(folder: Path) -> object:
    host.check_environments(folder)  # is there for folders in which something is wrong
    return EnvironmentIndex(folder).read()


def _login(_: Path) -> object:
    return read_login()


# A file, and what reads it in its folder.
_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "endpoints": ("endpoints.json", read_endpoints),
    "token": ("admin.token", read_token),
    "login": ("tunefleet/login", _login),
    "environments": ("envs/index.json", _environments),
    "up": ("up.lock", lambda folder: host.check_supervisor(Place(given=None, folder=folder))),
    "member": ("members/far/member.json", check_members),
    "contract": ("contract.json", read_contract),
}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNEFLEET_ENVS", "TUNEFLEET_ADDRESS", "TUNEFLEET_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("name", sorted(_READERS))
def test_any_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    file, read = _READERS[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "login":
        assert path == login_file()

    @_EACH
    @given(content=_FILES)
    def any_content(content: bytes) -> None:
        path.write_bytes(content)
        os.chmod(path, 0o600)
        try:
            read(tmp_path)
        except TunefleetError as error:
            refused = error
        else:
            return
        assert refused.reason is not Reason.INTERNAL
        assert refused.message
        assert refused.hint

    any_content()


_LINES = st.sampled_from([b"127.0.0.1:7", b"tf_1", b"", b"services/far", b"\xff", b"a\x00b"]) | st.binary(
    max_size=9
)


def _string(kind: InvitationKind, lines: list[bytes]) -> str:
    """Return a string whose check agrees with its content, whatever that is."""
    content = b"\n".join(lines)
    checked = zlib.crc32(content).to_bytes(4, "big") + content
    return f"{kind}_{base64.urlsafe_b64encode(checked).decode().rstrip('=')}"


@_EACH
@given(
    text=st.text(max_size=40)
    | st.text(max_size=40).map(lambda text: f"tfjoin1_{text}")
    | st.lists(_LINES, max_size=6).map(lambda lines: _string(InvitationKind.JOIN, lines))
)
def test_any_string_to_join_with_is_read_or_refused(text: str) -> None:
    try:
        is_fine = Invitation.read(text, InvitationKind.JOIN).kind is InvitationKind.JOIN
    except TunefleetError as error:
        is_fine = error.reason is Reason.FIELD_INVALID and bool(error.hint)
    assert is_fine


_WORDS = (
    st.text(max_size=12)
    | st.text(st.sampled_from("0123456789.,-smhdw%٣ "), max_size=12)
    | st.just("9" * 5000)
)


@_EACH
@given(word=_WORDS)
def test_any_word_of_the_command_line_is_read_or_refused(word: str) -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--x"])
    for read in (age_seconds, _read_steps):
        try:
            is_fine = read(context, option, word) is not None
        except click.BadParameter as error:
            is_fine = bool(error.message)
        assert is_fine
    found = layer_range(word)
    assert found is None or found.start <= found.stop
