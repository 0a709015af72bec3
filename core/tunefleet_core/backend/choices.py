"""Fields of a training spec that not every backend honours, and how a backend says which it does.

Each field has the values that need no declaration: what is trained where the field is left
out. Any other value must be among the `choices` of the manifest, or the spec is refused at
the field, so that a word that one backend knows is never passed over by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
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
    for field, basics in BASICS.items():
        for value in _values(train, field):
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


@cache
def _below_train(field: str) -> tuple[tuple[str, ...], str]:
    """Return the names of the messages around a field of a training spec, and its own."""
    *parents, name = field.split(".")[1:]
    return tuple(parents), name


@cache
def _has_presence(kind: type[Message], name: str) -> bool:
    return kind.DESCRIPTOR.fields_by_name[name].has_presence


def _values(train: TrainSpec, field: str) -> Iterable[object]:
    """Return the values of a field that was given: one, those of a list, or none."""
    message: Message = cast("Message", train)
    parents, name = _below_train(field)
    for parent in parents:
        if not message.HasField(parent):
            return ()
        message = getattr(message, parent)
    value: object = getattr(message, name)
    if _has_presence(type(message), name):
        return (value,) if message.HasField(name) else ()
    if isinstance(value, str):
        return (value,) if value else ()
    return cast("Iterable[object]", value)
