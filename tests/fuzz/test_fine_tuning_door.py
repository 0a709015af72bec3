"""Whatever is posted to OpenAI's fine-tuning and files at the gateway's door, the answer is no 500."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["model", "training_file", "validation_file", "method", "suffix", "seed", "metadata"]
)
_METHODS = st.fixed_dictionaries(
    {"type": st.sampled_from(["supervised", "dpo", "reinforcement"]) | _JSON},
    optional={
        "supervised": _JSON | st.fixed_dictionaries({"hyperparameters": _JSON}),
        "dpo": _JSON | st.fixed_dictionaries({"hyperparameters": st.fixed_dictionaries({"beta": _JSON})}),
        "reinforcement": _JSON | st.fixed_dictionaries({"grader": _JSON}),
    },
)
_BODIES = st.one_of(
    st.binary(max_size=100),
    st.just(b"[" * 50_000),
    _JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda method, others: json.dumps(
            {"model": "m", "training_file": "file-a", "method": method, **others}
        ).encode(),
        _METHODS,
        st.dictionaries(_FIELDS, _JSON, max_size=2),
    ),
)
_PATHS = st.sampled_from(
    [
        *("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/a/cancel"),
        *("/v1/fine_tuning/jobs/%00/pause", "/v1/fine_tuning/jobs/ftjob-a/events?limit=x&after=%ff"),
        *("/v1/files", "/v1/files/file-a/content"),
        *("/v1/models/ft:a:default:b", "/v1/models/ft:%00:default:%ff", "/v1/models/ft:a/b:c:d"),
    ]
)
_TYPES = st.sampled_from(["application/json", "multipart/form-data; boundary=b", "multipart/form-data", ""])


@pytest.mark.timeout(200)
def test_fine_tuning_answers_whatever_is_asked(fleet: Any) -> None:
    host, _, port = fleet.openai.rpartition(":")
    trusted = ssl.create_default_context(cadata=fleet.authority.decode())
    token = dict(fleet.bearer("admin"))["authorization"]
    statuses: set[int] = set()

    @settings(max_examples=150)
    @given(body=_BODIES, path=_PATHS, kind=_TYPES, method=st.sampled_from(["POST", "POST", "GET", "DELETE"]))
    def asked(body: bytes, path: str, kind: str, method: str) -> None:
        connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=trusted)
        try:
            headers = {"Authorization": token, "Content-Type": kind}
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        finally:
            connection.close()
        statuses.add(answer.status)
        assert answer.status < 500, content
        assert answer.status == 200 or content["error"]["message"]

    asked()
    assert {200, 400, 404} <= statuses, "lists, what is wrong, and what is not there"
    fleet.assert_well()
