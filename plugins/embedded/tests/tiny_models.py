"""Tiny random models, tokenizers and adapters, made in seconds without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog and asks what a fleet of tunes may be",
    'tickets to json: {"priority": 1, "team": "network"} says the system to the user',
    "Gruesse aus Koeln, naïve café, résumé, 東京 and 🙂 are written in bytes",
]


def make_tokenizer(vocabulary: int = 384, marks: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every byte is a token, so that random models write broken and unbroken UTF-8 alike."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    if marks:
        fast.add_tokens([AddedToken(mark, special=mark.startswith(("[", "<|"))) for mark in marks])
        fast.bos_token = "<|endoftext|>"  # templates of families that mark calls so write one
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_base(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    context: int = 1024,
    marks: Sequence[str] = (),
) -> Path:
    """Saves a random base of family `llama` or `qwen3` with its tokenizer; `marks` become tokens."""
    tokenizer = make_tokenizer(marks=marks)
    sizes: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # The usual 0.02 makes all tokens nearly equal: rounding alone would then decide the greedy one.
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(head_dim=16, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, *, seed: int, **options: Any) -> Path:
    """Saves a LoRA adapter whose weights are random in A and in B, so that it visibly changes the base."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = dict(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, LoraConfig(**{**settings, **options})).save_pretrained(folder)
    return folder


def make_prompt(base: Path, folder: Path, *, seed: int, tokens: int = 6) -> Path:
    """Saves a prompt of random embeddings, as far from each other as those of the base."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens))
    torch.nn.init.normal_(prompted.prompt_encoder["default"].embedding.weight, std=0.4)
    prompted.save_pretrained(folder)
    return folder
