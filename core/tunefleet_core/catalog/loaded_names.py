"""What transformers calls a module whose weights the files name otherwise.

An adapter is fitted to the loaded model, while a plan reads only the headers of the files. For most types
the names are the same; for the others transformers renames while it loads, and so is done here. Held against
really loaded models by the tests of the families.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["loaded_name"]

_Renames = Sequence[tuple[re.Pattern[str], str]]


def _renames(*pairs: tuple[str, str]) -> _Renames:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_SIGHTED = _renames((r"^model\.language_model\.", "model."))
_RENAMES: Mapping[str, _Renames] = {
    "gemma3": _renames((r"^language_model\.model\.", "model.language_model.")),
    "llama4": _renames((r"^language_model\.model\.", "model.")),
    "qwen3_5": _SIGHTED,
    "qwen3_5_moe": _SIGHTED,
    "deepseek_v4": _renames(
        (r"^(?:model\.)?layers\.", "model.layers."),
        (r"^(?:model\.)?embed\b", "model.embed_tokens"),
        (r"^head$", "lm_head"),
        (r"\.attn\.", ".self_attn."),
        (r"\.ffn\.", ".mlp."),
        (r"\.indexer\.compressor\b", ".compressor.indexer"),
        (r"\.indexer\.wq_b$", ".compressor.indexer.q_b_proj"),
        (r"\.indexer\.weights_proj$", ".compressor.indexer.scorer.weights_proj"),
        (r"\.w(q_[ab]|o_[ab]|kv)$", r".\1_proj"),
        (r"\.wgate$", ".gate_proj"),
        (r"\.shared_experts\.w1$", ".shared_experts.gate_proj"),
        (r"\.shared_experts\.w2$", ".shared_experts.down_proj"),
        (r"\.shared_experts\.w3$", ".shared_experts.up_proj"),
    ),
}
"""Type of a model to what is renamed, in this order, as its causal language model is loaded."""


def loaded_name(model_type: str, filed: str) -> str:
    """Return the name that a loaded model gives to what the files call `filed`.

    Args:
        model_type: `model_type` of config.json.
        filed: Name of a module, or the start of one, as in the files; without `.weight`.

    Example:
        >>> loaded_name("deepseek_v4", "layers.2.attn.wq_a")
        'model.layers.2.self_attn.q_a_proj'
    """
    for pattern, replacement in _RENAMES.get(model_type, ()):
        filed = pattern.sub(replacement, filed)
    return filed
