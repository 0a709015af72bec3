"""Fields of a training spec that not every backend honours, and how a backend says which it does.

Each field has the values that need no declaration: what is trained where the field is left
out. Any other value must be among the `choices` of the manifest, or the spec is refused at
the field, so that a word that one backend knows is never passed over by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from google.protobuf.message import Message

from tunefleet.backend.v1.backend_pb2 import BackendManifest, TrainChoice
from tunefleet.job.v1.spec_pb2 import TrainSpec

__all__ = ["BASICS", "choice_values", "train_choices", "undeclared_choices"]

BASICS: Mapping[str, tuple[object, ...]] = {
    "train.method.sft.packing": (False,),
    "train.adapter.lora.init": ("default",),
    "train.adapter.lora.lora_plus_ratio": (1.0,),
    "train.adapter.lora.modules_to_save": (),
    "train.gradient_checkpointing": (False,),
    "train.dtype": ("float32", "bfloat16"),
    "train.neftune_alpha": (0.0,),
    "train.optim.optimizer": ("adamw",),
    "train.optim.schedule": ("cosine", "linear", "constant"),
    "train.optim.min_lr_ratio": (0.0,),
    "train.optim.warmup_steps": (),
    "train.optim.beta1": (0.9,),
    "train.optim.beta2": (0.999,),
    "train.optim.epsilon": (1e-8,),
}
"""Field to the values that every backend trains with."""


def train_choices(choices: Mapping[str, Sequence[str]]) -> list[TrainChoice]:
    """Return the choices of a manifest: field to the values it takes there; none: any.

    Raises:
        ValueError: a field is not among those that need declaring.
    """
    unknown = sorted(set(choices) - set(BASICS))
    if unknown:
        raise ValueError(f"no field of a training spec that needs declaring: {', '.join(unknown)}")
    return [TrainChoice(field=field, values=values) for field, values in sorted(choices.items())]


def choice_values(manifest: BackendManifest, field: str) -> tuple[str, ...]:
    """Return the values that a backend declares for a field."""
    return next((tuple(choice.values) for choice in manifest.choices if choice.field == field), ())


def undeclared_choices(
    train: TrainSpec, manifest: BackendManifest
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield what a spec asks for and a backend does not declare: field, value, values that it takes."""
    given = _given(train)
    for field, basics in BASICS.items():
        for value in given.get(field, ()):
            if value in basics:
                continue
            declared = next((choice for choice in manifest.choices if choice.field == field), None)
            if declared is not None and not declared.values:
                continue
            known = tuple(declared.values) if declared is not None else ()
            if _word(value) not in known:
                yield field, _word(value), (*map(_word, basics), *known)


def _word(value: object) -> str:
    """Return a value as a job file would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _given(train: TrainSpec) -> dict[str, Iterable[object]]:
    """Return those of the fields that a spec gives, with their values.

    A message is asked once for all that it has: nearly every job gives one or two of these fields.
    """
    found: dict[str, Iterable[object]] = {}
    for parents, fields in _BY_MESSAGE.items():
        message = _below(train, parents)
        if message is None:
            continue
        for descriptor, value in message.ListFields():
            field = fields.get(descriptor.name)
            if field is not None:
                found[field] = (value,) if isinstance(value, (bool, int, float, str)) else value
    return found


def _below(train: TrainSpec, parents: Sequence[str]) -> Message | None:
    message = cast("Message", train)
    for parent in parents:
        if not message.HasField(parent):
            return None
        message = cast("Message", getattr(message, parent))
    return message


def _by_message() -> dict[tuple[str, ...], dict[str, str]]:
    """Return the fields by the messages around them below `train`: name to field."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for field in BASICS:
        *parents, name = field.split(".")[1:]
        found.setdefault(tuple(parents), {})[name] = field
    return found


_BY_MESSAGE = _by_message()
