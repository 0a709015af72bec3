"""What a training method asks of a spec: what it needs, and which fields have no sense beside it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.json_format import MessageToDict

from tunefleet.job.v1.spec_pb2 import DistillMethod, Reward, TrainSpec
from tunefleet_core.rewards import REWARD_MODEL

__all__ = ["method_violations"]


def method_violations(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong with it)."""
    method = train.method.WhichOneof("method") or "sft"
    if method != "sft" and train.loss_on == "all":
        yield (
            "train.loss_on",
            f"must be assistant with {method}, which compares answers; leave it out",
        )
    if method in ("grpo", "rloo"):
        rewards = getattr(train.method, method).rewards
        if not rewards:
            yield f"train.method.{method}.rewards", "is missing; write for example [{name: exact_match}]"
        for index, reward in enumerate(rewards):
            if not reward.name:
                yield f"train.method.{method}.rewards[{index}].name", "is missing; name a reward"
            if reward.name == REWARD_MODEL and not _names_model(reward):
                yield (
                    f"train.method.{method}.rewards[{index}].options.model",
                    "must name a reward model of the fleet, models/<name>",
                )
    if method == "reward":
        yield from _reward_model(train)
    if method == "distill":
        yield from _distill(train.method.distill)
    if method == "kto" and train.optim.micro_batch_size == 1:
        yield (
            "train.optim.micro_batch_size",
            "must be at least 2 with kto, which measures the distance from the base on the other rows of a "
            "pass; give 2 or more",
        )


def _names_model(reward: Reward) -> bool:
    model = MessageToDict(reward.options).get("model")
    return isinstance(model, str) and model.startswith(("models/", "projects/"))


def _reward_model(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield what has no sense for a model that scores answers and writes none."""
    if train.merge:
        yield "train.merge", "has no sense with reward: its adapter keeps a head of its own; leave it out"
    if train.HasField("samples"):
        yield "train.samples", "cannot be had of a reward model, which writes no answers; leave it out"
    if train.intended_serving.engine:
        yield (
            "train.intended_serving.engine",
            f"no engine serves a reward model, {train.intended_serving.engine} neither; leave it out and "
            "name the model in the rewards of a grpo or rloo job",
        )


def _distill(distill: DistillMethod) -> Iterator[tuple[str, str]]:
    field, teacher = "train.method.distill", distill.teacher
    kind = teacher.WhichOneof("teacher")
    if kind is None:
        yield (
            f"{field}.teacher",
            "is missing; write {model: {model: NAME}}, or {endpoint: {url: http://.../v1, model: NAME}}",
        )
    if kind == "model" and not teacher.model.model:
        yield f"{field}.teacher.model.model", "is missing; name a local folder, a Hub id or models/<name>"
    if kind != "endpoint":
        return
    if not teacher.endpoint.url.startswith(("http://", "https://")):
        yield f"{field}.teacher.endpoint.url", "must begin with http:// or https://, and often ends in /v1"
    if not teacher.endpoint.model:
        yield f"{field}.teacher.endpoint.model", "is missing; name the model as the endpoint calls it"
    for name in ("on_policy_share", "beta"):
        if distill.HasField(name):
            yield (
                f"{field}.{name}",
                "needs the teacher's probabilities, and an endpoint gives answers alone; leave it out, or "
                "name the teacher as a model",
            )
