"""Tiny random models from each family's real config class, and a tokenizer with its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["MODELS", "build_tokenizer", "special_tokens"]

_TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SEES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_DELTA: dict[str, Any] = {
    **_TEXT,
    "num_hidden_layers": 4,  # three gated-delta layers, then one of attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_QWEN_SEES = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
_LLAMA4 = {**_TEXT, "intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 2}
_GEMMA4 = {
    **_TEXT,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
}
_GLOBAL = {"global_head_dim": 8}
_DELTA_EXPERTS = {**_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 16}


def _plain(name: str, **further: Any) -> Callable[[], Any]:
    """Return a builder of `<name>ForCausalLM` from `<name>Config`."""

    def build() -> Any:
        import transformers

        config = getattr(transformers, f"{name}Config")(**{**_TEXT, **further})
        return getattr(transformers, f"{name}ForCausalLM")(config)

    return build


def _sighted(name: str, text: dict[str, Any], vision: dict[str, Any], **further: Any) -> Callable[[], Any]:
    """Return a builder of the model with a vision tower, as checkpoints of it are published."""

    def build() -> Any:
        import transformers

        config = getattr(transformers, f"{name}Config")(
            text_config=dict(text), vision_config=dict(vision), **further
        )
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


def _text_only(config: str, model: str, text: dict[str, Any]) -> Callable[[], Any]:
    """Return a builder of a language model whose config class has a name of its own."""

    def build() -> Any:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**text))

    return build


MODELS: dict[str, Callable[[], Any]] = {
    "qwen2": _plain("Qwen2"),
    "gemma3": _sighted("Gemma3", _TEXT, _SEES, mm_tokens_per_image=4),
    "mixtral": _plain("Mixtral", num_local_experts=4),
    "qwen3": _plain("Qwen3"),
    "llama": _plain("Llama"),
    "qwen3_moe": _plain("Qwen3Moe", **_EXPERTS),
    "mistral": _plain("Mistral"),
    "gemma2": _plain("Gemma2"),
    "gemma3_text": _text_only("Gemma3TextConfig", "Gemma3ForCausalLM", _TEXT),
    "gemma4_text": _text_only("Gemma4TextConfig", "Gemma4ForCausalLM", _GEMMA4),
    "gemma4": _sighted("Gemma4", _GEMMA4, _SEES, audio_config=None),
    "gemma4_unified_text": _text_only(
        "Gemma4UnifiedTextConfig", "Gemma4UnifiedForCausalLM", {**_TEXT, **_GLOBAL}
    ),
    "gemma4_unified": _sighted(
        "Gemma4Unified",
        {**_TEXT, **_GLOBAL},
        {"patch_size": 4, "mm_embed_dim": 32, "mm_posemb_size": 8, "output_proj_dims": 32},
        audio_config=None,
    ),
    "phi3": _plain("Phi3"),
    "gpt_oss": _plain("GptOss", num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": _plain(
        "DeepseekV3",
        num_key_value_heads=4,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_group=2,
        topk_group=1,
    ),
    "deepseek_v4": _plain(
        "DeepseekV4",
        num_hidden_layers=4,  # a table of tokens chooses the experts of the first
        mlp_layer_types=["hash_moe", "moe", "moe", "moe"],
        num_key_value_heads=1,
        head_dim=16,
        partial_rotary_factor=0.5,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        q_lora_rank=16,
        o_lora_rank=8,
        o_groups=2,
        index_n_heads=2,
        index_head_dim=16,
        index_topk=4,
        sliding_window=8,
        hc_mult=2,
    ),
    "cohere": _plain("Cohere"),
    "cohere2": _plain("Cohere2"),
    "llama4_text": _text_only("Llama4TextConfig", "Llama4ForCausalLM", _LLAMA4),
    "llama4": _sighted(
        "Llama4",
        _LLAMA4,
        {
            **_SEES,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "pixel_shuffle_ratio": 0.5,
        },
    ),
    "qwen3_5_text": _text_only("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", _DELTA),
    "qwen3_5": _sighted("Qwen3_5", _DELTA, _QWEN_SEES),
    "qwen3_5_moe_text": _text_only("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM", _DELTA_EXPERTS),
    "qwen3_5_moe": _sighted("Qwen3_5Moe", _DELTA_EXPERTS, _QWEN_SEES),
}
"""Model type to builder; a name with `_text` is the language model alone."""

_TOKEN = re.compile(
    r"<[|｜][^<>'\" ]*[|｜]>|<(?:start|end)_of_turn>|<\|?turn\|?>|<\|?channel\|?>"
    r"|</?think>|\[/?[A-Z]{3,}(?:_[A-Z]+)?\]"
)


def special_tokens(*texts: str) -> list[str]:
    """Return what looks like a special token in templates, in the order it appears."""
    return list(dict.fromkeys(token for text in texts for token in _TOKEN.findall(text)))


def build_tokenizer(tokens: Iterable[str], *, bos: str, eos: str) -> Any:
    """Return a byte-level tokenizer without merges, with these special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = dict.fromkeys([bos, eos, *tokens])
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in names])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=eos)
