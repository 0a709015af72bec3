"""Tiny random models with the record of a training, as a trainer leaves them. Needs torch.

Exporters without torch have theirs made by an environment that has it:

    python tiny_trained.py FOLDER --class qwen3 --dtype float32
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from tunefleet_core.parity import (
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TopLogprobs,
    TrainServeContract,
    write_contract,
)

__all__ = ["MODEL_TYPES", "build_model"]

MODEL_TYPES = ("qwen3", "llama")
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXTS = (
    "the quick brown fox jumps over the lazy dog", "What is the capital of France? Paris.",
    "red rot blue blau green gruen white weiss", "12 345 times, isn't it? I'll see.",
)  # fmt: skip


def build_model(folder: Path, *, model_type: str, dtype: str = "float32", seed: int = 0) -> Path:
    """Write a model whose weights moved from others, as training moves them, and the record of that.

    Its rows are 256 long, the block of a k-quant.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.06,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape))
    prompts = [tokenizer(text)["input_ids"] for text in _TEXTS]
    base = [top_logprobs(model, prompt) for prompt in prompts]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight += 0.06 * torch.randn_like(weight)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = model.float()  # trainers compute in it on a CPU, whatever the weights are stored in
    tuned = [top_logprobs(model, prompt) for prompt in prompts]
    write_contract(_contract(prompts, base, tuned, tokenizer), folder)
    return folder


def build_tokenizer() -> Any:
    """Return a byte-level tokenizer with Qwen's pattern and merges of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Signs with line ends behind them are one piece in this pattern, two in that of GPT-2.
    core.train_from_iterator([*_TEXTS, *["stop!\r\n\r\n"] * 9] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_TEMPLATE,
    )


def top_logprobs(model: Any, prompt: list[int]) -> TopLogprobs:
    """Return the most likely next tokens of a prompt as the trainer measures them."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    top = torch.topk(torch.log_softmax(logits.float(), dim=-1), 20)
    return TopLogprobs(token_ids=tuple(top.indices.tolist()), logprobs=tuple(top.values.tolist()))


def _contract(
    prompts: list[list[int]], base: list[TopLogprobs], tuned: list[TopLogprobs], tokenizer: Any
) -> TrainServeContract:
    return TrainServeContract(
        base_digest="0" * 64,
        tokenizer_digest="",
        template=TemplateRecord(
            text=_TEMPLATE,
            sha256=hashlib.sha256(_TEMPLATE.encode()).hexdigest(),
            stop_token_ids=(tokenizer.eos_token_id,),
            frozen_time_seconds=0,
        ),
        adapter=None,
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(),
        numbers=tuple(
            NumbersRecord(prompt_token_ids=tuple(prompt), base=one, tuned=other)
            for prompt, one, other in zip(prompts, base, tuned, strict=True)
        ),
    )


def main() -> None:
    """Write one model into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--class", dest="model_type", choices=MODEL_TYPES, required=True)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    build_model(arguments.folder, model_type=arguments.model_type, dtype=arguments.dtype)


if __name__ == "__main__":
    main()
