"""A real model of 30,000 weights, written without torch, tokenizers or a network.

It is a two-layer Qwen3 with random weights, a byte-level tokenizer without merges and
a ChatML template with generation markers: small enough for a test, whole enough for
every library that trains or serves. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import math
import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CHAT_TEMPLATE", "TARGET_MODULES", "write_adapter", "write_base", "write_rows"]

_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS, _HEAD_SIZE = (
    32,
    64,
    2,
    2,
    1,
    32,
)  # vLLM has no smaller heads on a CPU
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VOCABULARY = 256 + len(_SPECIAL)
_PAD_ID, _END_ID = 256, 258
# With the usual 0.02 all tokens are nearly as likely, and rounding decides the greedy one.
_SPREAD = 0.2
_RANK = 4

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TARGET_MODULES = tuple(
    sorted(
        f"model.layers.{layer}.{module}"
        for layer in range(_LAYERS)
        for module in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    )
)  # fmt: skip
_COLOURS = (("red", "rot"), ("blue", "blau"), ("green", "gruen"), ("white", "weiss"))


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """Write the model folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config())
    _write_json(folder / "generation_config.json", {"eos_token_id": _END_ID, "pad_token_id": _PAD_ID})
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 512,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    (folder / "chat_template.jinja").write_bytes(CHAT_TEMPLATE.encode())
    _write_safetensors(folder / "model.safetensors", _shapes(), random.Random(seed))
    return folder


def write_adapter(folder: Path, base: Path, *, seed: int = 1) -> Path:
    """Write a LoRA adapter in PEFT form whose two factors are both random, so that it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(_LAYERS):
        for module, out in (("q_proj", _HEADS * _HEAD_SIZE), ("v_proj", _KV_HEADS * _HEAD_SIZE)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            shapes[f"{name}.lora_A.weight"] = (_RANK, _HIDDEN)
            shapes[f"{name}.lora_B.weight"] = (out, _RANK)
    _write_json(folder / "adapter_config.json", config)
    _write_safetensors(folder / "adapter_model.safetensors", shapes, random.Random(seed))
    return folder


def write_rows(path: Path, *, copies: int = 4) -> Path:
    """Write conversations of one question and one answer, as JSONL."""
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in _COLOURS * copies
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "dtype": "float32",
        "eos_token_id": _END_ID,
        "pad_token_id": _PAD_ID,
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    heads, kv_heads = _HEADS * _HEAD_SIZE, _KV_HEADS * _HEAD_SIZE
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (_HIDDEN,),
            "self_attn.q_proj": (heads, _HIDDEN),
            "self_attn.k_proj": (kv_heads, _HIDDEN),
            "self_attn.v_proj": (kv_heads, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, heads),
            "self_attn.q_norm": (_HEAD_SIZE,),
            "self_attn.k_norm": (_HEAD_SIZE,),
            "mlp.gate_proj": (_INNER, _HIDDEN),
            "mlp.up_proj": (_INNER, _HIDDEN),
            "mlp.down_proj": (_HIDDEN, _INNER),
            "post_attention_layernorm": (_HIDDEN,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return {**shapes, "model.norm.weight": (_HIDDEN,)}


def _tokenizer() -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 256 + index, "content": text, **flags} for index, text in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letter: index for index, letter in enumerate(_byte_letters())},
            "merges": [],
        },
    }


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level vocabularies."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def _write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]], source: random.Random) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape in sorted(shapes.items()):
        count = math.prod(shape)
        is_norm = len(shape) == 1
        values = array("f", [1.0] * count if is_norm else [source.gauss(0, _SPREAD) for _ in range(count)])
        start = len(body)
        body += struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, len(body)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # readers map the file and want aligned numbers
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
