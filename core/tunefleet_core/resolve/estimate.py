"""Estimate what a job needs: steps, trainable parameters, bytes of memory.

Kept with the job, so that it can be compared with what was measured:

- weights: parameters in the number type of the computation; of a base that is quantised, or
  will be while it is loaded, the linear layers take the bits per weight of the format.
- optimiser: 16 bytes per trainable parameter: float32 value, gradient and the two
  moments of AdamW; others keep less, and paged ones keep it on the host if they must.
  Full fine-tuning in float32 needs no second copy of the value: 12. In bfloat16 it keeps
  the float32 value and the copy in bfloat16 that the forward pass casts: small steps would
  be lost in the 8 bits of bfloat16. DoRA adds one magnitude per output of every target
  module (Liu et al. 2024, arXiv:2402.09353).
- activations of a micro batch: see `activations`. Where a step is one micro batch on one device, gradients
  come as activations go: the larger of both counts, not their sum.
- methods that score the model's own answers take all answers to a prompt through it at once, each
  as long as the longest prompt and the longest answer.
- methods that compare pairs take two answers per row through the model at once; all that hold
  the result near the base keep the base beside the weights if every weight is trained.
- divided over N devices (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054; FSDP2) a part takes 1/N of
  itself on each. Weights that are divided, or kept by the host, come together where they are computed
  with: a matrix at a time, or a layer, and its gradients if they are trained. The
  embedding and the head count as one layer where layers come together, else as a matrix each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tunefleet.backend.v1.backend_pb2 import MemoryPart
from tunefleet.job.v1.resolved_pb2 import CompanionModel, Estimate
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import MemoryLayout
from tunefleet_core.catalog import (
    FormatRegistry,
    adapter_parameters,
    expert_adapter_parameters,
    linear_modules,
    whole_module_parameters,
)
from tunefleet_core.resolve.activations import Batch, activation_bytes, count_of
from tunefleet_core.resolve.defaults import distill, online
from tunefleet_core.resolve.recipe import config_of

__all__ = ["estimate_evaluate", "estimate_train", "steps_of"]

_MADE_BITS = {"mlx4": 4.5, "mlx8": 8.5}
"""Formats that exist in memory alone: the bits, and a scale and a bias of 16 bits per 64 weights."""
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_COMPARED = ("dpo", "ipo", "kto")
_PAIRED = ("dpo", "ipo", "orpo", "simpo", "reward")
_VALUE_BYTES, _GRADIENT_BYTES = 4, 4
_STATE_BYTES = {
    "adamw": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "lion": 4,
    "lion_8bit": 1,
    "muon": 4,  # of matrices; of the rest, which AdamW moves, 8
    "adafactor": 0,  # sums over rows and columns
}
_PAGED = "paged_"
_MOST = 2**63 - 1
"""What the wire can say; lengths and batches within their own bounds can multiply to more."""


def steps_of(train: TrainSpec, *, rows: int) -> int:
    """Return the number of optimiser steps for so many rows, or packed sequences of them."""
    optim = train.optim
    if optim.max_steps > 0:
        return optim.max_steps
    return math.ceil(optim.epochs * math.ceil(rows / optim.batch_size))


def estimate_train(
    train: TrainSpec,
    facts: BaseFacts,
    target_modules: Sequence[str],
    *,
    total_steps: int,
    packed_sequences: int = 0,
    target_parameters: Sequence[str] = (),
    formats: FormatRegistry | None = None,
    companions: Iterable[CompanionModel] = (),
    layout: MemoryLayout | None = None,
) -> Estimate:
    """Estimate a training job whose spec has every default filled in.

    Args:
        train: What is trained.
        facts: The base.
        target_modules: Modules that get an adapter.
        total_steps: Optimiser steps.
        packed_sequences: Sequences that the rows fill; 0 without packing.
        target_parameters: Parameters of routed experts that get an adapter.
        formats: The quantisation formats; one that is not among them counts as whole weights.
        companions: Models that are read beside the base; every device keeps all of them.
        layout: What of it is where; left out: every device keeps all.
    """
    layout = layout or MemoryLayout()
    number_bytes = _DTYPE_BYTES[train.dtype]
    is_adapter = train.adapter.WhichOneof("adapter") is not None
    trainable = _adapter_parameters(train, facts, target_modules) if is_adapter else facts.parameter_count
    if is_adapter:
        trainable += whole_module_parameters(facts, train.adapter.lora.modules_to_save)
        trainable += expert_adapter_parameters(facts, target_parameters, train.adapter.lora.rank)
    in_place = not is_adapter and train.dtype == "float32" and not layout.copies_values
    weights = _weights_bytes(facts, number_bytes, _linear_bits(train, facts, formats or FormatRegistry()))
    if not is_adapter and _has_reference(train):
        weights *= 2
    gathered = _gathered_bytes(facts, number_bytes, layout) * (1 if is_adapter else 2)
    beside = sum(companion.base.parameter_count * number_bytes for companion in companions)
    parts = {
        MemoryPart.MEMORY_PART_WEIGHTS: weights,
        MemoryPart.MEMORY_PART_GRADIENTS: trainable * _GRADIENT_BYTES,
        MemoryPart.MEMORY_PART_OPTIMIZER: trainable * _state_bytes(train, in_place=in_place),
    }
    kept = {part: layout.on_device(part, size) for part, size in parts.items()}
    weights = kept.pop(MemoryPart.MEMORY_PART_WEIGHTS) + gathered + beside
    activations = activation_bytes(
        train,
        facts,
        config_of(facts),
        Batch(rows=_rows(train), tokens=_row_tokens(train) + train.adapter.prompt_tuning.num_virtual_tokens),
        target_modules,
        layout,
        number_bytes=number_bytes,
    )
    stepped = sum(kept.values())
    gradients = kept[MemoryPart.MEMORY_PART_GRADIENTS]
    saved = min(gradients, activations) if _is_one_pass(train, layout) else 0
    return Estimate(
        weights_bytes=weights,
        optimizer_bytes=stepped,
        activation_bytes=min(activations, _MOST),
        peak_bytes=min(weights + stepped + activations - saved, _MOST),
        host_bytes=sum(size for part, size in parts.items() if part in layout.on_host),
        trainable_parameters=trainable,
        total_steps=total_steps,
        packed_sequences=packed_sequences,
    )


def _state_bytes(train: TrainSpec, *, in_place: bool) -> int:
    """Return the bytes that an optimiser keeps for each number that is trained, beside its gradient."""
    name = train.optim.optimizer or "adamw"
    # What is paged moves to the host when the device is full.
    state = 0 if name.startswith(_PAGED) and train.dtype != "float32" else _STATE_BYTES[name]
    return state + (0 if in_place else _VALUE_BYTES)


def _gathered_bytes(facts: BaseFacts, number_bytes: int, layout: MemoryLayout) -> int:
    """Return the bytes of the weights that a device has together at once, of those that it keeps in part."""
    if not layout.gathers:
        return 0
    config = config_of(facts)
    embedding = count_of(config, "vocab_size") * count_of(config, "hidden_size")
    if not layout.gathers_layers:
        matrices = (outputs * inputs for outputs, inputs in linear_modules(facts).values())
        return max(embedding, *matrices, 0) * number_bytes
    outside = embedding if config.get("tie_word_embeddings") else 2 * embedding
    layer = max(0, facts.parameter_count - outside) // max(1, count_of(config, "num_hidden_layers"))
    return max(outside, layer) * number_bytes


def estimate_evaluate(facts: BaseFacts, *, rows: int) -> Estimate:
    """Estimate an evaluation: the weights as stored, and one step per row."""
    return Estimate(weights_bytes=facts.weights_bytes, peak_bytes=facts.weights_bytes, total_steps=rows)


def _method(train: TrainSpec) -> str:
    return train.method.WhichOneof("method") or "sft"


def _has_reference(train: TrainSpec) -> bool:
    """Return whether the base stands beside weights that are all trained."""
    method = _method(train)
    if method in online.METHODS:
        return getattr(train.method, method).beta > 0
    return method in _COMPARED


def _rows(train: TrainSpec) -> int:
    """Return the rows that go through the model at once, as wide as the longest of them."""
    method = _method(train)
    each = 2 if method in (*_PAIRED, distill.METHOD) else 1
    if method in online.METHODS:
        each = getattr(train.method, method).num_generations
    if distill.writes_rows(train):
        each = 1
    return each * train.optim.micro_batch_size


def _row_tokens(train: TrainSpec) -> int:
    """Return the tokens of the longest of them."""
    method = _method(train)
    if method in online.METHODS:
        return train.max_length + getattr(train.method, method).max_completion_length
    if distill.writes_rows(train):
        return train.max_length + train.method.distill.max_completion_length
    return train.max_length


def _is_one_pass(train: TrainSpec, layout: MemoryLayout) -> bool:
    """Return whether a step is one backward pass, and each gradient is made in it and kept as it is."""
    is_alone = layout.is_plain and layout.devices == 1
    return is_alone and train.optim.batch_size == train.optim.micro_batch_size


def _adapter_parameters(train: TrainSpec, facts: BaseFacts, target_modules: Sequence[str]) -> int:
    if train.adapter.HasField("prompt_tuning"):
        return train.adapter.prompt_tuning.num_virtual_tokens * count_of(config_of(facts), "hidden_size")
    count = adapter_parameters(facts, target_modules, train.adapter.lora.rank)
    if train.adapter.lora.dora:
        modules = linear_modules(facts)
        count += sum(modules[name][0] for name in target_modules if name in modules)
    return count


def _linear_bits(train: TrainSpec, facts: BaseFacts, formats: FormatRegistry) -> float:
    """Return the bits of a weight of a linear layer while it is trained; 0: those of any other number."""
    if facts.HasField("quantization"):
        stored = formats.get(facts.quantization.format)
        is_unpacked = stored is not None and stored.is_unpacked_to_train
        return 0.0 if is_unpacked else facts.quantization.bits_per_weight
    if train.quantization in _MADE_BITS:
        return _MADE_BITS[train.quantization]
    wanted = formats.get(train.quantization)
    return wanted.bits_per_weight if wanted is not None else 0.0


def _weights_bytes(facts: BaseFacts, number_bytes: int, linear_bits: float) -> int:
    if not linear_bits:
        return facts.parameter_count * number_bytes
    is_stored = facts.HasField("quantization")
    linear = sum(
        outputs * inputs
        for name, (outputs, inputs) in linear_modules(facts).items()
        # One layer each in the files, one 3-D parameter when loaded: no library rounds that on the way.
        if is_stored or "experts" not in name.split(".")
    )
    return math.ceil(linear * linear_bits / 8) + (facts.parameter_count - linear) * number_bytes
