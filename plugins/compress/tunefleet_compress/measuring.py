"""Log-probabilities of reference prompts. As a program: of a folder, in a process that loaded nothing else.

A fresh process sees what an engine will see: the files, and nothing that was left in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunefleet_core.parity import TOP_TOKENS, TopLogprobs
from tunefleet_core.parity.measured_aside import tops_to_json
from tunefleet_core.worker.aside import serve_aside

__all__ = ["measure"]


def measure(model: Any, prompts: Sequence[Sequence[int]]) -> list[TopLogprobs]:
    """Return the most likely next tokens of each prompt, from logits taken to float32."""
    import torch

    found: list[TopLogprobs] = []
    model.eval()
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            top = torch.topk(logprobs, min(TOP_TOKENS, logprobs.shape[-1]))
            found.append(
                TopLogprobs(token_ids=tuple(top.indices.tolist()), logprobs=tuple(top.values.tolist()))
            )
    return found


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        task["model"], local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return {"numbers": tops_to_json(measure(model.to(task["device"]), task["prompts"]))}


if __name__ == "__main__":
    serve_aside(_work)
