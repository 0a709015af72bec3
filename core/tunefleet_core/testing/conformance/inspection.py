"""Inspect: rows tokenised and their loss mask reported, before anything starts."""

from __future__ import annotations

import json

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.calls import Refused
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES

__all__ = ["Inspect"]

_INSPECT = Capability.CAPABILITY_INSPECT
_GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "rot"}]}
)


class Inspect(Suite):
    """AuditData."""

    @case(_INSPECT)
    async def test_an_audit_counts_rows_and_trained_tokens(self, bench: Bench) -> None:
        answer = await bench.call("AuditData", pb.AuditDataRequest(order=bench.orders.audit()))
        (file,) = answer.result.files
        assert len(file.sha256) == 64
        assert file.mask.rows == 16
        assert 0 < file.mask.trained_tokens < file.mask.tokens
        assert file.mask.end_of_turn_trained, "a model that is not taught to stop will not"

    @case(_INSPECT)
    async def test_an_audit_says_the_same_again(self, bench: Bench) -> None:
        request = pb.AuditDataRequest(order=bench.orders.audit())
        answers = [await bench.call("AuditData", request) for _ in range(TIMES)]
        assert all(answer == answers[0] for answer in answers)

    @case(_INSPECT, is_error=True)
    async def test_a_line_that_is_no_json_is_named(self, bench: Bench) -> None:
        refused = await _refused(bench, "broken.jsonl", f"{_GOOD}\nnot json\n")
        assert ":2" in refused.message or "line 2" in refused.message, refused

    @case(_INSPECT, is_error=True)
    async def test_a_role_that_nobody_knows_is_named(self, bench: Bench) -> None:
        row = json.dumps({"messages": [{"role": "wizard", "content": "x"}]})
        refused = await _refused(bench, "role.jsonl", f"{row}\n")
        assert "wizard" in refused.message or "role" in refused.message, refused

    @case(_INSPECT, is_error=True)
    async def test_an_empty_file_is_refused(self, bench: Bench) -> None:
        await _refused(bench, "empty.jsonl", "")

    @case(_INSPECT, is_error=True)
    async def test_a_refused_audit_harms_no_other(self, bench: Bench) -> None:
        await _refused(bench, "bad.jsonl", "[]\n")
        answer = await bench.call("AuditData", pb.AuditDataRequest(order=bench.orders.audit()))
        assert answer.result.files[0].mask.rows == 16


async def _refused(bench: Bench, name: str, content: str) -> Refused:
    path = bench.folder / name
    path.write_text(content)
    refused = await bench.refusal("AuditData", pb.AuditDataRequest(order=bench.orders.audit(path)))
    assert (refused.code, refused.reasons) == ("INVALID_ARGUMENT", ["DATA_INVALID"]), refused
    return refused
