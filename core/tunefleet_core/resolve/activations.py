"""What a micro batch keeps for its backward pass, counted tensor by tensor.

A layer of a decoder as transformers computes it: root mean square norms in float32, attention by
`scaled_dot_product_attention`, which keeps no attention matrix, and a gated MLP. Of each token, with n bytes
per number of the computation, hidden size h, intermediate size f and the widths q and v of all query heads
and all key heads, a layer keeps

- both norms' inputs in float32, 2*4*h; where their weights are trained also what is normed, 2*4*h;
- what goes into the matrices: where they are trained the norms' outputs (2*n*h, or in mixed precision
  a copy for each of five matrices, 5*n*h) and the MLP's product, n*f. Matrices that are frozen keep none
  of it. An adapter on one keeps its input: the tensor that stands there anyway if all is float32, else
  a copy of its own; with dropout a copy in float32 and a mask, of 1 byte, or n on a processor;
- gate, activation and up projection of the MLP, 3*n*f;
- queries, keys, values and the attention's output, n*(2*q + 2*v). Rows of a batch of several are padded,
  so each layer has a mask of n*s for s tokens of a row, and keys and values are as wide as queries;
- where queries and keys have norms of their own, these: 4*(q + v), twice that where trained.

With gradient checkpointing a layer keeps its input alone, and one layer at a time is computed again (Chen
et al. 2016, arXiv:1604.06174). The head comes on top while nothing has been given back yet: logits and
their gradient in float32, 8 bytes for each token and each entry of the vocabulary, or tiles of them.

Held against what torch had allocated in runs: `plugins/trl/tests/test_memory_plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import MemoryLayout
from tunefleet_core.catalog import linear_modules

__all__ = ["Batch", "activation_bytes", "count_of"]

_FLOAT32 = 4
_QK_NORMS = ("q_norm.weight", "k_norm.weight")
_KEPT_ANYWAY = "o_proj"
_READ_BY_MATRICES = 5
"""Matrices that read a norm's output: queries, keys, values, gate, up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows that go through the model at once.

    Attributes:
        rows: How many.
        tokens: Tokens of each at most.
    """

    rows: int
    tokens: int

    @property
    def all_tokens(self) -> int:
        return self.rows * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Widths of a decoder: hidden, intermediate (of the experts that a token goes to), queries, keys."""

    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    has_qk_norms: bool

    @classmethod
    def of(cls, facts: BaseFacts, config: Mapping[str, object]) -> _Shape:
        hidden, heads = count_of(config, "hidden_size"), count_of(config, "num_attention_heads")
        head = count_of(config, "head_dim") or (hidden // heads if heads else 0)
        return cls(
            layers=count_of(config, "num_hidden_layers"),
            hidden=hidden,
            intermediate=_intermediate(config) or 4 * hidden,
            queries=heads * head or hidden,
            keys=(count_of(config, "num_key_value_heads") or heads) * head or hidden,
            vocabulary=count_of(config, "vocab_size"),
            has_qk_norms=any(tensor.name.endswith(_QK_NORMS) for tensor in facts.tensors),
        )


def activation_bytes(
    train: TrainSpec,
    facts: BaseFacts,
    config: Mapping[str, object],
    batch: Batch,
    target_modules: Sequence[str],
    layout: MemoryLayout,
    *,
    number_bytes: int,
) -> int:
    """Return the bytes of a micro batch at their most, 0 where the config does not say how large a layer is.

    Args:
        train: A spec with every default filled in.
        facts: The base.
        config: Of the language model.
        batch: A micro batch at its longest.
        target_modules: Modules that get an adapter.
        layout: How the head is computed, and on what.
        number_bytes: Of a number of the computation.
    """
    shape = _Shape.of(facts, config)
    if not shape.hidden or not shape.layers:
        return 0
    is_trained = train.adapter.WhichOneof("adapter") is None
    of_layer = _layer_bytes(shape, batch, number_bytes, is_trained=is_trained)
    if not is_trained:
        of_layer += _adapter_input_bytes(train, facts, target_modules, layout, number_bytes) / shape.layers
    residual = _FLOAT32 if is_trained else number_bytes
    is_kept = train.HasField("gradient_checkpointing") and not train.gradient_checkpointing
    kept = shape.layers * (of_layer if is_kept else shape.hidden * residual)
    # The last norm and the embedding; then the head, or later one layer that is computed again.
    around = 3 * _FLOAT32 * shape.hidden * batch.all_tokens
    head = 0 if train.method.HasField("reward") else _head_bytes(shape, batch, layout, number_bytes)
    again = 0 if is_kept else of_layer * batch.all_tokens
    return round(kept * batch.all_tokens + around + max(head, again))


def count_of(config: Mapping[str, object], name: str) -> int:
    """Return a number of a config that counts something, 0 if there is none or none that makes sense."""
    value = config.get(name)
    return value if isinstance(value, int) and 0 < value < 2**31 else 0


def _intermediate(config: Mapping[str, object]) -> int:
    """Return the width of the MLP that one token goes through."""
    experts = count_of(config, "num_experts_per_tok")
    routed = count_of(config, "moe_intermediate_size") or count_of(config, "intermediate_size")
    shared = count_of(config, "shared_expert_intermediate_size")
    return experts * routed + shared if experts else count_of(config, "intermediate_size")


def _layer_bytes(shape: _Shape, batch: Batch, number: int, *, is_trained: bool) -> float:
    """Return what a layer keeps of a token, without what an adapter keeps."""
    is_padded = batch.rows > 1
    keys = shape.queries if is_padded else shape.keys
    kept = 2 * _FLOAT32 * shape.hidden
    kept += number * (3 * shape.intermediate + 2 * shape.queries + 2 * keys)
    kept += number * batch.tokens if is_padded else 0
    norms = _FLOAT32 * (shape.queries + shape.keys) if shape.has_qk_norms else 0
    if is_trained:
        copies = 2 if number == _FLOAT32 else _READ_BY_MATRICES
        kept += 2 * _FLOAT32 * shape.hidden + number * (copies * shape.hidden + shape.intermediate)
        norms *= 2
    return kept + norms


def _adapter_input_bytes(
    train: TrainSpec, facts: BaseFacts, target_modules: Sequence[str], layout: MemoryLayout, number: int
) -> int:
    """Return what the adapters of all layers keep of a token: the inputs of their matrices."""
    modules = linear_modules(facts)
    inputs = {name: modules[name][1] for name in target_modules if name in modules}
    if train.adapter.lora.dropout > 0:
        return sum(inputs.values()) * (_FLOAT32 + (number if layout.on_processor else 1))
    if number != _FLOAT32:
        return sum(inputs.values()) * number
    # Matrices side by side read one tensor; what goes into the last one of attention is kept anyway.
    own = {name: size for name, size in inputs.items() if not name.endswith(_KEPT_ANYWAY)}
    read = {(name.rpartition(".")[0], size) for name, size in own.items()}
    return sum(size for _, size in read) * number


def _head_bytes(shape: _Shape, batch: Batch, layout: MemoryLayout, number: int) -> int:
    if layout.head_tiles is None:
        return 2 * _FLOAT32 * shape.vocabulary * batch.all_tokens
    tokens = min(batch.all_tokens, layout.head_tiles.tokens)
    entries = min(shape.vocabulary, layout.head_tiles.entries)
    copies = layout.head_tiles.cpu_copies * _FLOAT32 * entries if layout.on_processor else 0
    return tokens * (layout.head_tiles.entries * number + copies)
