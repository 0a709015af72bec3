"""The base model and its tokenizer: loading, rendering, ids of end-of-turn tokens."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tunefleet_embedded.engine.errors import ModelRefused
from tunefleet_embedded.engine.options import EngineOptions

_log = logging.getLogger(__name__)

# Below this many parameters a CPU forward is bound by the calls, not by arithmetic: more threads make it
# slower.
_SMALL_MODEL_PARAMETERS = 50_000_000
_DEFAULT_CONTEXT_TOKENS = 4096
_KNOWN_ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A loaded base: the torch model, its tokenizer and what requests need to know of them."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any
    backend: Any
    device: torch.device
    dtype: torch.dtype
    max_context: int
    vocabulary: int
    stop_ids: frozenset[int]
    takes_additive_mask: bool

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids. Safe in any thread: the backend tokenizer is never changed after loading."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids


def load_base_model(options: EngineOptions) -> BaseModel:
    """Loads base and tokenizer from safetensors, without remote code.

    Raises:
        ModelRefused: the folder cannot be served by this engine; the text says what to do instead.
    """
    config = AutoConfig.from_pretrained(options.model, trust_remote_code=False)
    text_config = config.get_text_config()
    _check_attention(text_config)
    device = _pick_device(options.device)
    dtype = _pick_dtype(options.dtype, text_config, device)
    _log.info("loading %s as %s on %s", options.model, dtype, device)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    model.eval().requires_grad_(False).to(device)
    _set_threads(options.threads, model, device)
    tokenizer, backend = _load_tokenizer(options.model)
    own_context = getattr(text_config, "max_position_embeddings", None) or _DEFAULT_CONTEXT_TOKENS
    if options.max_context is not None and options.max_context > own_context:
        raise ModelRefused(
            f"--max-context {options.max_context} is more than the model's {own_context} positions."
        )
    sliding = getattr(text_config, "sliding_window", None) is not None and not _all_full(text_config)
    return BaseModel(
        name=options.served_name,
        folder=options.model,
        model=model,
        tokenizer=tokenizer,
        backend=backend,
        device=device,
        dtype=model.dtype,
        max_context=options.max_context or own_context,
        vocabulary=text_config.vocab_size,
        stop_ids=_stop_ids(model, tokenizer),
        takes_additive_mask=model.config.get_text_config()._attn_implementation == "sdpa" and not sliding,
    )


def _check_attention(config: Any) -> None:
    """The engine's cache holds keys and values per token; other kinds of state need another engine."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - _KNOWN_ATTENTION:
        unknown = ", ".join(sorted(kinds - _KNOWN_ATTENTION))
        raise ModelRefused(
            f"The model has layers of type {unknown}; serve it with another engine (vllm, sglang, mlx)."
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelRefused(
            "The model shares keys between layers; serve it with another engine (vllm, sglang, mlx)."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("The model is an encoder-decoder; this engine serves decoder-only models.")


def _all_full(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return bool(kinds) and set(kinds) == {"full_attention"}


def _pick_device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _pick_dtype(wanted: str, config: Any, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return getattr(torch, wanted)
    saved = getattr(config, "dtype", None) or torch.float32
    # Most laptop CPUs emulate bfloat16 and are several times slower with it; float16 is not offered at all.
    if device.type == "cpu" or saved == torch.float32:
        return torch.float32
    return torch.bfloat16


def _set_threads(wanted: int | None, model: Any, device: torch.device) -> None:
    if wanted is None and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        small = sum(parameter.numel() for parameter in model.parameters()) < _SMALL_MODEL_PARAMETERS
        wanted = 1 if small else None
    if wanted is not None:
        torch.set_num_threads(wanted)


def _load_tokenizer(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelRefused(
            "The tokenizer has no tokenizer.json; convert it (save_pretrained of a fast tokenizer)."
        )
    probe = "A probe, 1 2 3."
    if tokenizer(probe).input_ids != backend.encode(probe).ids:
        raise ModelRefused(
            "The tokenizer changes ids outside its tokenizer.json; serve the model with another engine."
        )
    backend.no_padding()
    backend.no_truncation()
    return tokenizer, backend


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for value in (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(one) for one in value)
    return frozenset(found)
