"""Record GGUF files that the `gguf` package writes, and the sizes that it gives to block types.

    python plugins/formats/tests/record_gguf.py     (in an environment with gguf)

The package quantises to the simple block types only; k-quants are recorded by `record_llama_cpp.py`.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from recording import RECORDED, Entry, record

LIBRARIES = ("gguf",)
KINDS = ("Q8_0", "Q4_0", "Q5_1")
SHAPES = {
    "token_embd.weight": (320, 128),
    "blk.0.attn_q.weight": (128, 128),
    "blk.0.ffn_down.weight": (128, 256),
    "blk.0.attn_norm.weight": (128,),
}


def write(path: Path, kind: str) -> dict[str, Entry]:
    """Write a file with matrices of one block type, read it again and return its tensors."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

    writer = GGUFWriter(str(path), "qwen3")
    for name, shape in SHAPES.items():
        values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        wanted = GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        stored = quants.quantize(values, wanted)
        writer.add_tensor(name, stored, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {
        tensor.name: {
            "dtype": tensor.tensor_type.name,
            "shape": [int(item) for item in reversed(tensor.shape)],
            "bytes": int(tensor.n_bytes),
        }
        for tensor in GGUFReader(str(path)).tensors
    }


if __name__ == "__main__":
    from gguf import GGML_QUANT_SIZES

    with tempfile.TemporaryDirectory() as place:
        for kind in KINDS:
            file = f"tiny-{kind}.gguf"
            tensors = write(Path(place) / file, kind)
            print(
                record(
                    f"gguf-{kind.lower()}",
                    made_by=f"gguf.quants.quantize to {kind}",
                    libraries=LIBRARIES,
                    config={},
                    tensors=tensors,
                    files=[file],
                )
            )
    sizes = {kind.name: list(size) for kind, size in GGML_QUANT_SIZES.items()}
    rows = [f" {json.dumps(name)}: {json.dumps(sizes[name])}" for name in sorted(sizes)]
    table = RECORDED / "ggml-block-sizes.json"
    table.write_text(f'{{\n "gguf": "{version("gguf")}",\n' + ",\n".join(rows) + "\n}\n")
    print(table)
