"""Formats held to what the libraries really wrote: recognised by one, and right to the byte."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from recording import RECORDED

from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.catalog.format import Checkpoint, Format, Recognised
from tunefleet_formats.gguf import BLOCK_BITS
from tunefleet_formats.plugin import FORMATS

REGISTRY = FormatRegistry(FORMATS)
LAYER = "model.layers.0"
SHAPES = {
    f"{LAYER}.self_attn.q_proj.weight": (128, 128),
    f"{LAYER}.self_attn.k_proj.weight": (64, 128),
    f"{LAYER}.self_attn.v_proj.weight": (64, 128),
    f"{LAYER}.self_attn.o_proj.weight": (128, 128),
    f"{LAYER}.mlp.gate_proj.weight": (256, 128),
    f"{LAYER}.mlp.up_proj.weight": (256, 128),
    f"{LAYER}.mlp.down_proj.weight": (128, 256),
}
"""The linear layers of the tiny model that every library quantised."""
ENDS = {"model.embed_tokens.weight": (320, 128), "lm_head.weight": (320, 128)}
INPUTS_PER_WEIGHT = sum(shape[1] for shape in SHAPES.values()) / 147456
OUTPUTS_PER_WEIGHT = sum(shape[0] for shape in SHAPES.values()) / 147456
MATRICES_PER_WEIGHT = len(SHAPES) / 147456


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A recorded checkpoint: what it is, and what its tensors hold beyond the variant's figure.

    `beside` is in bits per weight and exact, but for nf4 and fp4 (see below).
    """

    form: str
    variant: str = ""
    carrier: str
    beside: float = 0.0


CASES = {
    # The order of the inputs, 32 bits each.
    "auto-round-gptq": Case(form="gptq", variant="4bit", carrier="gptq", beside=32 * INPUTS_PER_WEIGHT),
    "auto-round-gptq-8bit": Case(form="gptq", variant="8bit", carrier="gptq", beside=32 * INPUTS_PER_WEIGHT),
    "auto-round-own-gptq": Case(form="gptq", variant="4bit", carrier="auto-round"),
    "auto-round-awq": Case(form="awq", carrier="awq"),
    "auto-round-own-mxfp4": Case(form="mxfp4", carrier="auto-round"),
    # One float32 scale for the weights of a matrix, one for its inputs.
    "auto-round-own-nvfp4": Case(form="nvfp4", carrier="auto-round", beside=64 * MATRICES_PER_WEIGHT),
    "llmcompressor-nvfp4": Case(form="nvfp4", carrier="compressed-tensors", beside=64 * MATRICES_PER_WEIGHT),
    "llmcompressor-nvfp4-weights": Case(
        form="nvfp4", carrier="compressed-tensors", beside=32 * MATRICES_PER_WEIGHT
    ),
    "llmcompressor-mxfp4": Case(form="mxfp4", carrier="compressed-tensors"),
    # A 16-bit scale per output: more per weight here than at the 4,096 inputs of the figure.
    "llmcompressor-fp8-channel": Case(
        form="fp8",
        variant="channel",
        carrier="compressed-tensors",
        beside=16 * OUTPUTS_PER_WEIGHT - 16 / 4096,
    ),
    # 16-bit scales, where the checkpoints of DeepSeek and Qwen have 32; ten blocks in all.
    "llmcompressor-fp8-block": Case(
        form="fp8", variant="block", carrier="compressed-tensors", beside=16 * 10 / 147456 - 32 / 128**2
    ),
    # A 16-bit scale for the weights and one for the inputs.
    "llmcompressor-fp8-tensor": Case(
        form="fp8", variant="tensor", carrier="compressed-tensors", beside=32 * MATRICES_PER_WEIGHT
    ),
    # The shape of each matrix, two 64-bit numbers.
    "llmcompressor-w4a16": Case(
        form="compressed-tensors",
        variant="w4a16",
        carrier="compressed-tensors",
        beside=128 * MATRICES_PER_WEIGHT,
    ),
    "llmcompressor-w4a16-asym": Case(
        form="compressed-tensors",
        variant="w4a16-asym",
        carrier="compressed-tensors",
        beside=128 * MATRICES_PER_WEIGHT,
    ),
    "llmcompressor-w8a16": Case(
        form="compressed-tensors",
        variant="w8a16",
        carrier="compressed-tensors",
        beside=128 * MATRICES_PER_WEIGHT,
    ),
    "llmcompressor-w8a8": Case(
        form="compressed-tensors",
        variant="w8a8",
        carrier="compressed-tensors",
        beside=16 * OUTPUTS_PER_WEIGHT - 16 / 4096,
    ),
    # A float32 scale per output, and a byte that names the layout.
    "bitsandbytes-int8": Case(
        form="int8",
        carrier="bitsandbytes",
        beside=32 * OUTPUTS_PER_WEIGHT + 8 * MATRICES_PER_WEIGHT - 32 / 4096,
    ),
    **{
        f"mlx-{bits}bit": Case(form="mlx", variant=f"{bits}bit", carrier="mlx") for bits in (2, 3, 4, 5, 6, 8)
    },
}
GGUF_BLOCKS = ("q8_0", "q4_0", "q5_1")
GGUF_RECIPES = {
    # The type of most tensors; those of the sensitive ones; that of rows which fit no block of 256.
    "q2_k": "Q2_K; Q3_K Q6_K; Q4_0",
    "q3_k_s": "Q3_K; Q6_K; Q4_0",
    "q3_k_m": "Q3_K; Q4_K Q5_K Q6_K; Q5_0",
    "q3_k_l": "Q3_K; Q5_K Q6_K; Q5_1",
    "q4_k_s": "Q4_K; Q5_K Q6_K; Q5_0",
    "q4_k_m": "Q4_K; Q6_K; Q5_0",
    "q5_k_s": "Q5_K; Q6_K; Q5_1",
    "q5_k_m": "Q5_K; Q6_K; Q5_1",
    "q6_k": "Q6_K; Q6_K; Q8_0",
}
"""What llama.cpp made of each recipe; some types stand for several recipes."""
TABLES = {"bitsandbytes-nf4": "double", "bitsandbytes-fp4": "double", "bitsandbytes-nf4-single": "single"}


def read(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text())


def recognise(name: str) -> tuple[Format, Recognised, dict[str, Any]]:
    recorded = read(name)
    checkpoint = Checkpoint(
        config=recorded["config"],
        tensors={key: (item["dtype"], tuple(item["shape"])) for key, item in recorded["tensors"].items()},
        files=recorded["files"],
    )
    found = REGISTRY.recognise(checkpoint)  # raises if two formats claim it
    assert found is not None
    return *found, recorded


def stored_bits_per_weight(recognised: Recognised, recorded: dict[str, Any]) -> float:
    """Return bits by the byte ranges in the files, which no format looks at."""
    parts = [part for packed in recognised.weights.values() for part in packed.parts]
    assert len(parts) == len(set(parts))
    number = sum(math.prod(packed.shape) for packed in recognised.weights.values())
    return sum(recorded["tensors"][part]["bytes"] for part in parts) * 8 / number


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_checkpoint_is_recognised_and_its_size_is_exact(name: str) -> None:
    case = CASES[name]
    found, recognised, recorded = recognise(name)
    assert (found.name, recognised.variant, recognised.carrier) == (case.form, case.variant, case.carrier)
    assert recognised.bits_per_weight == pytest.approx(
        stored_bits_per_weight(recognised, recorded), rel=1e-12
    )
    stated = REGISTRY.variant(found, case.variant, field="variant").bits_per_weight
    assert recognised.bits_per_weight == pytest.approx(stated + case.beside, rel=1e-9)


@pytest.mark.parametrize(("name", "variant"), TABLES.items())
def test_four_bits_of_bitsandbytes_are_the_figure_and_tables_of_fixed_size(name: str, variant: str) -> None:
    """The tables are code books (64 bytes, 1,024 for scales of scales) and a JSON text of under 200 bytes."""
    found, recognised, recorded = recognise(name)
    kind = "fp4" if "fp4" in name else "nf4"
    assert (found.name, recognised.variant, recognised.carrier) == (kind, variant, "bitsandbytes")
    assert recognised.bits_per_weight == pytest.approx(
        stored_bits_per_weight(recognised, recorded), rel=1e-12
    )
    stated = REGISTRY.variant(found, variant, field="variant").bits_per_weight
    table = 64 + (1024 if variant == "double" else 0)
    beside = (recognised.bits_per_weight - stated) / MATRICES_PER_WEIGHT / 8
    assert table < beside < table + 200


@pytest.mark.parametrize("name", [*CASES, *TABLES])
def test_packed_weights_have_the_names_and_shapes_of_the_loaded_model(name: str) -> None:
    _, recognised, recorded = recognise(name)
    wanted = SHAPES | (ENDS if name.startswith("mlx") else {})
    assert {key: packed.shape for key, packed in recognised.weights.items()} == wanted
    packed = {part for item in recognised.weights.values() for part in item.parts}
    left = {key for key in recorded["tensors"] if key not in packed}
    assert left == {
        f"{LAYER}.input_layernorm.weight",
        f"{LAYER}.post_attention_layernorm.weight",
        f"{LAYER}.self_attn.k_norm.weight",
        f"{LAYER}.self_attn.q_norm.weight",
        "model.norm.weight",
        *(ENDS if not name.startswith("mlx") else ()),
    }


@pytest.mark.parametrize("kind", [*GGUF_BLOCKS, *GGUF_RECIPES])
def test_a_gguf_file_is_recognised_and_weighs_what_it_weighs(kind: str) -> None:
    found, recognised, recorded = recognise(f"gguf-{kind}")
    assert (found.name, recognised.variant, recognised.carrier) == ("gguf", kind, "gguf")
    assert recognised.bits_per_weight == pytest.approx(
        stored_bits_per_weight(recognised, recorded), rel=1e-12
    )
    assert "blk.0.attn_norm.weight" not in recognised.weights


@pytest.mark.parametrize(("kind", "types"), GGUF_RECIPES.items())
def test_a_k_quant_is_a_mix_whose_every_tensor_is_sized_by_its_own_type(kind: str, types: str) -> None:
    """Also the one whose rows fit no block of 256, for which llama.cpp took a block of 32."""
    usual, others, fallback = types.split("; ")
    tensors = {name: item for name, item in read(f"gguf-{kind}")["tensors"].items() if len(item["shape"]) > 1}
    for name, item in tensors.items():
        rows, width = item["shape"]
        assert item["bytes"] * 8 == rows * width * BLOCK_BITS[item["dtype"]], name
        is_fitting = width % 256 == 0
        allowed = {usual, *others.split()} if is_fitting else {fallback}
        assert item["dtype"] in allowed, name
    assert {item["dtype"] for item in tensors.values()} == {usual, *others.split(), fallback}
    mean = (
        math.fsum(item["bytes"] for item in tensors.values())
        * 8
        / math.fsum(math.prod(item["shape"]) for item in tensors.values())
    )
    assert mean > BLOCK_BITS[usual], "what is mixed in costs more than the type that gives the name"


def test_block_sizes_of_gguf_are_those_of_its_own_package() -> None:
    sizes = read("ggml-block-sizes")
    for kind, bits in BLOCK_BITS.items():
        weights, stored_bytes = sizes[kind]
        assert bits == stored_bytes * 8 / weights, kind


def test_every_recorded_checkpoint_is_looked_at() -> None:
    names = {path.stem for path in RECORDED.glob("*.json")} - {"ggml-block-sizes"}
    assert names == {*CASES, *TABLES, *(f"gguf-{kind}" for kind in (*GGUF_BLOCKS, *GGUF_RECIPES))}
