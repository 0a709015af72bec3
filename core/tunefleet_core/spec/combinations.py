"""Which ways of starting an adapter and of moving weights cannot be combined with what else is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from google.protobuf.message import Message

from tunefleet.job.v1.spec_pb2 import Optim, TrainSpec
from tunefleet_core.layer_range import layer_range
from tunefleet_core.spec.lora_scale import LOFTQ, takes_from_base

__all__ = ["INITS", "OPTIMIZERS", "SCHEDULES", "combined", "layers", "prompt_tuning", "shares"]

SCHEDULES = ("cosine", "linear", "constant", "wsd")
OPTIMIZERS = (
    "adamw",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "lion",
    "lion_8bit",
    "muon",
)
INITS = ("default", "pissa", "olora", LOFTQ)
_LOFTQ_FORMATS = ("nf4", "fp4")

_DEFAULT_BATCH = 16


def combined(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield what is wrong about fields that are right each by itself: field, description."""
    if takes_from_base(train.adapter.lora) or train.adapter.lora.init == LOFTQ:
        yield from _initial(train)
    if train.neftune_alpha and train.method.WhichOneof("method") not in ("sft", None):
        yield "train.neftune_alpha", "is for sft: where answers are compared, noise would be in the reward"
    yield from _batch(train.optim)
    yield from _schedule(train.optim)
    yield from _optimizer(train.optim)


def layers(value: object) -> str:
    """Return what is wrong with a layer or a range of layers; empty: nothing."""
    if layer_range(cast("str", value)) is not None:
        return ""
    return f"must be a layer or a range of layers, such as 16-31, got '{value}'"


def prompt_tuning(train: TrainSpec, devices: int) -> Iterator[tuple[str, str]]:
    """Yield what learned embeddings before a prompt cannot be combined with."""
    if not train.adapter.HasField("prompt_tuning"):
        return
    field = "train.adapter.prompt_tuning"
    method = train.method.WhichOneof("method") or "sft"
    if method != "sft":
        yield field, f"is trained by sft alone, not by {method}; use an adapter of the kind lora"
    if train.merge:
        yield (
            "train.merge",
            "has nothing to merge: learned embeddings are no part of the weights; leave it out",
        )
    if train.method.sft.packing:
        yield (
            "train.method.sft.packing",
            "puts several rows into a sequence, and each needs the embeddings before it; leave it out",
        )
    if devices > 1:
        yield "resources.devices", f"must be 1 with {field}, got {devices}"


def shares(optim: Optim, devices: int) -> Iterator[tuple[str, str]]:
    """Yield why the rows of a step cannot be shared evenly by several devices."""
    if devices < 2:
        return
    batch = optim.batch_size if optim.HasField("batch_size") else _DEFAULT_BATCH
    given = "" if optim.HasField("batch_size") else " (the default)"
    micro = optim.micro_batch_size
    if batch > 0 and batch % devices:
        nearest = max(devices, batch // devices * devices)
        yield (
            "train.optim.batch_size",
            f"is {batch}{given}, which {devices} devices cannot share evenly; set it to {nearest}",
        )
    elif optim.HasField("micro_batch_size") and micro > 0 and batch > 0 and (batch // devices) % micro:
        yield (
            "train.optim.micro_batch_size",
            f"must divide the {batch // devices} rows of a step that each of {devices} devices takes, "
            f"got {micro}",
        )


def _initial(train: TrainSpec) -> Iterator[tuple[str, str]]:
    lora, field = train.adapter.lora, "train.adapter.lora.init"
    is_loftq = lora.init == LOFTQ
    if is_loftq and train.quantization not in _LOFTQ_FORMATS:
        yield (
            field,
            "loftq begins with what quantising takes from the base; set train.quantization: nf4 or fp4",
        )
    for asked, word in (
        (lora.dora, "dora: what is given back is a plain update"),
        (lora.rslora, "rslora: the rank doubles when it is written, and the scale would change"),
        (lora.experts, "experts: the library has it for linear layers only"),
        (
            not is_loftq and bool(train.quantization),
            "quantization: it is taken out of weights in whole numbers",
        ),
    ):
        if asked:
            yield field, f"{lora.init} cannot be combined with {word}; leave one out"
    method = train.method.WhichOneof("method") or "sft"
    if method not in ("sft", "orpo", "simpo"):
        yield (
            field,
            f"{lora.init} cannot be used with {method}, which looks at the base beside the model; "
            "leave it out",
        )


def _batch(optim: Optim) -> Iterator[tuple[str, str]]:
    batch = optim.batch_size if optim.HasField("batch_size") else _DEFAULT_BATCH
    micro = optim.micro_batch_size
    if optim.HasField("micro_batch_size") and micro > 0 and batch > 0 and batch % micro:
        given = "" if optim.HasField("batch_size") else ", the default,"
        yield "train.optim.micro_batch_size", f"must divide batch_size {batch}{given} evenly, got {micro}"


def _schedule(optim: Optim) -> Iterator[tuple[str, str]]:
    schedule = optim.schedule or "cosine"
    if optim.HasField("decay_ratio") and schedule != "wsd":
        yield "train.optim.decay_ratio", f"is for the schedule wsd, not for {schedule}; leave it out"
    if optim.min_lr_ratio and schedule == "constant":
        yield "train.optim.min_lr_ratio", "has no sense with the schedule constant, which does not fall"
    if optim.HasField("warmup_steps") and 0 < optim.max_steps < optim.warmup_steps:
        yield (
            "train.optim.warmup_steps",
            f"must be at most max_steps {optim.max_steps}, got {optim.warmup_steps}",
        )


def _optimizer(optim: Optim) -> Iterator[tuple[str, str]]:
    unused: dict[str, tuple[str, ...]] = {
        "adafactor": ("beta1", "beta2", "epsilon"),
        "lion": ("epsilon",),
        "lion_8bit": ("epsilon",),
    }
    for name in unused.get(optim.optimizer, ()):
        if cast("Message", optim).HasField(name):
            yield f"train.optim.{name}", f"is nothing that {optim.optimizer} knows; leave it out"
