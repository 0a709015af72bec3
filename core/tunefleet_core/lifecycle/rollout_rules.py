"""What a roll-out's policy means: its steps, the shares of two versions, and when one is judged."""

from __future__ import annotations

from itertools import pairwise

from google.protobuf.duration_pb2 import Duration

from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy, RolloutState, StickyKey, TrafficCounts
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle.rows import DeploymentRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = ["ALL", "broken_limit", "seconds_of", "settle_policy", "shares_of"]

ALL = 100
_USUAL_STEPS = (5, 25)
_MOST_STEPS = 20
_USUAL_ERROR_RATE = 0.05
_USUAL_REQUESTS = 20
_USUAL_DRAIN_SECONDS = 300.0


def settle_policy(asked: RolloutPolicy) -> RolloutPolicy:
    """Return a policy with everything decided that was left out.

    Raises:
        TunefleetError: FIELD_INVALID for steps that do not rise, or a limit out of its range.
    """
    policy = RolloutPolicy()
    policy.CopyFrom(asked)
    steps = list(asked.steps) or list(_USUAL_STEPS)
    if not steps or steps[-1] != ALL:
        steps.append(ALL)
    rises = all(before < after for before, after in pairwise(steps))
    if not rises or not steps[0] >= 1 or steps[-1] > ALL or len(steps) > _MOST_STEPS:
        raise TunefleetError.field(
            "policy.steps",
            f"must be at most {_MOST_STEPS} percentages from 1 to {ALL} that rise, such as 5, 25",
        )
    del policy.steps[:]
    policy.steps.extend(steps)
    for name in ("bake", "drain_limit"):
        if asked.HasField(name) and seconds_of(getattr(asked, name)) < 0:
            raise TunefleetError.field(f"policy.{name}", "must not be negative")
    if policy.sticky == StickyKey.STICKY_KEY_UNSPECIFIED:
        policy.sticky = StickyKey.STICKY_KEY_USER
    if not policy.HasField("max_error_rate"):
        policy.max_error_rate = _USUAL_ERROR_RATE
    if not 0 <= policy.max_error_rate <= 1:  # not so for NaN either
        raise TunefleetError.field("policy.max_error_rate", "must be from 0 to 1")
    if policy.HasField("max_latency_ratio") and not policy.max_latency_ratio >= 1:
        raise TunefleetError.field("policy.max_latency_ratio", "must be at least 1")
    if not policy.HasField("min_requests"):
        policy.min_requests = _USUAL_REQUESTS
    if policy.min_requests < 0:
        raise TunefleetError.field("policy.min_requests", "must not be negative")
    if policy.min_scores and not policy.evaluate_job:
        raise TunefleetError.field("policy.min_scores", "needs evaluate_job: the job whose scores they are")
    if not policy.HasField("drain_limit"):
        policy.drain_limit.FromNanoseconds(round(_USUAL_DRAIN_SECONDS * 1e9))
    return policy


def seconds_of(span: Duration) -> float:
    """Return a span in seconds."""
    return span.seconds + span.nanos / 1e9


def shares_of(
    traffic: TrafficRow, current: DeploymentRow | None, candidate: DeploymentRow | None
) -> dict[str, int]:
    """Return the shares of the traffic by version uid, percent: 100 together, or none if none can answer.

    A version that cannot answer has nothing; what would be its own goes to the other.
    """
    both = [row for row in (current, candidate) if row is not None and row.answers]
    if not traffic.is_rolling:
        return {row.uid: ALL for row in both if row.is_current}
    weight = 0
    if traffic.state == RolloutState.ROLLOUT_STATE_BAKING:
        weight = RolloutPolicy.FromString(traffic.policy).steps[traffic.step - 1]
    if len(both) == 1:
        return {both[0].uid: ALL} if both[0] is current or weight else {}
    wanted = {row.uid: ALL - weight if row is current else weight for row in both}
    return {uid: share for uid, share in wanted.items() if share}


def broken_limit(policy: RolloutPolicy, current: TrafficCounts, candidate: TrafficCounts) -> str:
    """Return which limit a candidate's counts are beyond, as a sentence; empty: none, or too few are known.

    Latencies are compared between the two versions over the same step: what slows both is not
    the candidate's doing.
    """
    if candidate.requests < max(1, policy.min_requests):
        return ""
    rate = candidate.errors / candidate.requests
    if rate > policy.max_error_rate:
        return (
            f"{candidate.errors} of {candidate.requests} requests failed ({rate:.1%}); "
            f"the limit is {policy.max_error_rate:.1%}."
        )
    if not policy.HasField("max_latency_ratio"):
        return ""
    enough = max(1, policy.min_requests)
    if min(current.first_bytes, candidate.first_bytes) < enough or current.first_byte_seconds <= 0:
        return ""
    before = current.first_byte_seconds / current.first_bytes
    now = candidate.first_byte_seconds / candidate.first_bytes
    if now > before * policy.max_latency_ratio:
        return (
            f"The first byte took {now * 1e3:.0f} ms on average, {now / before:.1f} times as long as before "
            f"({before * 1e3:.0f} ms); the limit is {policy.max_latency_ratio:g} times."
        )
    return ""
