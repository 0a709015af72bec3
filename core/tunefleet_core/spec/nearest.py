"""Name what a person probably meant: close spellings of words and of spec fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from google.protobuf.descriptor import Descriptor

from tunefleet_core.spec.descriptors import fields_of, is_map, message_type

__all__ = ["OTHER_NAMES", "did_you_mean", "field_hint"]

OTHER_NAMES: Mapping[str, str] = {
    "base_model": "train.base.model",
    "bf16": "train.dtype",
    "cutoff_len": "train.max_length",
    "datasets": "train.data.train",
    "fp16": "train.dtype",
    "gradient_accumulation_steps": "train.optim.batch_size",
    "load_in_4bit": "train.quantization",
    "load_in_8bit": "train.quantization",
    "lora_alpha": "train.adapter.lora.alpha",
    "lora_dropout": "train.adapter.lora.dropout",
    "lora_r": "train.adapter.lora.rank",
    "lora_rank": "train.adapter.lora.rank",
    "lora_target": "train.adapter.lora.targets",
    "lora_target_modules": "train.adapter.lora.targets",
    "lr_scheduler": "train.optim.schedule",
    "lr_scheduler_type": "train.optim.schedule",
    "max_seq_len": "train.max_length",
    "max_seq_length": "train.max_length",
    "model_name": "train.base.model",
    "model_name_or_path": "train.base.model",
    "num_epochs": "train.optim.epochs",
    "num_train_epochs": "train.optim.epochs",
    "per_device_train_batch_size": "train.optim.micro_batch_size",
    "quantization_bit": "train.quantization",
    "report_to": "tracking",
    "sample_packing": "train.method.sft.packing",
    "save_steps": "train.checkpoint.every_steps",
    "sequence_len": "train.max_length",
    "stage": "train.method",
    "target_modules": "train.adapter.lora.targets",
    "wandb_project": "tracking",
}
"""What Axolotl, LLaMA-Factory, TRL and Unsloth call a field, and where it stands here."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `words`, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def field_hint(name: str, message: Descriptor, root: Descriptor) -> str:
    """Return `; did you mean 'x'?` for an unknown field of `message`.

    A field of that very name elsewhere in the file wins over a close spelling here:
    `learning_rate` under `train` belongs to `train.optim`. So does what others call it.
    """
    elsewhere = {path.rpartition(".")[2]: path for path in _paths(root, "")}
    if name in elsewhere:
        return f"; did you mean '{elsewhere[name]}'?"
    if name in OTHER_NAMES:
        return f"; did you mean '{OTHER_NAMES[name]}'?"
    here = did_you_mean(name, [field.name for field in fields_of(message)])
    if here:
        return here
    near = difflib.get_close_matches(name.lower(), elsewhere, n=1, cutoff=0.75)
    return f"; did you mean '{elsewhere[near[0]]}'?" if near else ""


def _paths(message: Descriptor, prefix: str) -> Iterator[str]:
    for field in fields_of(message):
        yield f"{prefix}{field.name}"
        inner = message_type(field)
        if inner is not None and not is_map(field) and inner.file.package.startswith("tunefleet"):
            yield from _paths(inner, f"{prefix}{field.name}.")
