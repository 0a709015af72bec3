"""Record GGUF files that llama.cpp's own quantiser writes: k-quants, and the recipes that mix them.

    python plugins/formats/tests/record_llama_cpp.py     (in the environment of the gguf plugin)

The model is a Qwen3 of random numbers, written without a converter: the quantiser looks at
names, shapes and the few figures of the header. Rows are 256 long or a multiple, as k-quants
need, but for one matrix of each layer, for which llama.cpp falls back to a block of 32.
Two layers: the recipes give some matrices of the last one more bits than of the first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy
from gguf import GGUFReader, GGUFWriter
from recording import Entry, record

from tunefleet_gguf.llama import round_file

KINDS = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
)  # fmt: skip
VOCABULARY, WIDTH, INNER, LAYERS = 320, 256, 512, 2
HEADS, KEY_HEADS, HEAD_WIDTH = 4, 2, 32
"""The heads' output is 128 wide: the rows of attn_output fit no block of 256."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of the model, outputs before inputs."""
    queries, keys = HEADS * HEAD_WIDTH, KEY_HEADS * HEAD_WIDTH
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (queries, WIDTH),
            "attn_k": (keys, WIDTH),
            "attn_v": (keys, WIDTH),
            "attn_output": (WIDTH, queries),
            "attn_q_norm": (HEAD_WIDTH,),
            "attn_k_norm": (HEAD_WIDTH,),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            found[f"blk.{layer}.{name}.weight"] = shape
    return found


def write_whole(path: Path) -> None:
    """Write the model in float32."""
    writer = GGUFWriter(str(path), "qwen3")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    numbers = numpy.random.default_rng(0)
    for name, shape in shapes().items():
        writer.add_tensor(name, numbers.standard_normal(shape, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(path: Path) -> dict[str, Entry]:
    """Return the tensors of a file as its header gives them."""
    return {
        tensor.name: {
            "dtype": tensor.tensor_type.name,
            "shape": [int(item) for item in reversed(tensor.shape)],
            "bytes": int(tensor.n_bytes),
        }
        for tensor in GGUFReader(str(path)).tensors
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole.gguf"
        write_whole(whole)
        for kind in KINDS:
            written = Path(place) / f"tiny-{kind}.gguf"
            round_file(whole, written, file_type=f"MOSTLY_{kind}", threads=1)
            print(
                record(
                    f"gguf-{kind.lower()}",
                    made_by=f"llama_model_quantize to {kind}",
                    libraries=("llama-cpp-python",),
                    config={},
                    tensors=read_tensors(written),
                    files=[written.name],
                )
            )
