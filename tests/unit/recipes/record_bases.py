"""Record what is planned with: config and tensors of the bases that recipes name, without a weight.

Run with the interpreter of the trl environment, after a change of this file:

    OMP_NUM_THREADS=1 python tests/unit/recipes/record_bases.py

The values below are those of each model's published config.json. The tensors come from the class that
transformers has for it, built on the meta device, under the names that it saves them by. Names that
differ only in their numbers stand once, with the numbers as ranges. What a checkpoint holds beside the model
that is loaded (the multi-token prediction layer of Qwen3.6, 0.4 of 27.8 billion) is not there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

FOLDER = Path(__file__).parent / "bases"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

LLAMA = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "num_attention_heads": 32, "vocab_size": 151936}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Llama-3.1-8B-Instruct": (
        "llama",
        {
            **LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (
        "llama",
        {
            **LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64,
        },
    ),
    "Qwen/Qwen3-4B-Instruct-2507": (
        "qwen3",
        {
            **QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "tie_word_embeddings": True, "max_position_embeddings": 262144,
        },
    ),
    "Qwen/Qwen3-8B": (
        "qwen3",
        {
            **QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "tie_word_embeddings": False, "max_position_embeddings": 40960,
        },
    ),
    "Qwen/Qwen2.5-Coder-7B-Instruct": (
        "qwen2",
        {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
            "tie_word_embeddings": False, "max_position_embeddings": 32768,
        },
    ),
    "Qwen/Qwen3.6-27B": (
        "qwen3_5",
        {
            "text_config": {
                "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64,
                "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320,
                "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128,
                "linear_value_head_dim": 128, "max_position_embeddings": 262144,
            },
            "vision_config": {"out_hidden_size": 5120},
            "tie_word_embeddings": False,
        },
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": (
        "qwen3_moe",
        {
            "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
            "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
            "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936, "norm_topk_prob": True,
            "tie_word_embeddings": False, "max_position_embeddings": 262144,
        },
    ),
    "openai/gpt-oss-20b": (
        "gpt_oss",
        {
            "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
            "num_experts_per_tok": 4, "vocab_size": 201088, "tie_word_embeddings": False,
            "max_position_embeddings": 131072,
        },
    ),
}  # fmt: skip


def record(model: str, model_type: str, values: dict[str, Any]) -> None:
    """Write the file of one base."""
    config = AutoConfig.for_model(model_type, **values)
    kind = AutoModelForImageTextToText if "vision_config" in values else AutoModelForCausalLM
    with torch.device("meta"):
        built = kind.from_config(config)
    state = built.state_dict()
    if config.get_text_config().tie_word_embeddings:
        state.pop("lm_head.weight", None)  # the files hold it once
    state = revert_weight_conversion(built, state)
    shapes: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        numbers = [int(number) for number in _NUMBER.findall(name)]
        key = f"{_NUMBER.sub('#', name)}  {list(tensor.shape)}"
        shapes.setdefault(key, {"numbers": []})["numbers"].append(numbers)
    tensors = {key: _ranges(found["numbers"]) for key, found in sorted(shapes.items())}
    content = {
        "model": model,
        "transformers": transformers.__version__,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "config": {"model_type": model_type, "architectures": [type(built).__name__], **values},
        "tensors": tensors,
    }
    target = FOLDER / f"{model.replace('/', '--')}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(model, f"{content['parameters']:,}", len(tensors), target.stat().st_size)


def _ranges(numbers: list[list[int]]) -> list[str]:
    """Return, of each place of a number in a name, the numbers that stand there: `0-2 4-6`."""
    places = [sorted(set(place)) for place in zip(*numbers, strict=True)]
    product = 1
    for place in places:
        product *= len(place)
    assert product == len(numbers) or not places, "every number stands with every other"
    return [_range(place) for place in places]


def _range(numbers: list[int]) -> str:
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return " ".join(f"{start}-{end}" if end > start else f"{start}" for start, end in pairs)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, (model_type, values) in BASES.items():
        record(name, model_type, values)
