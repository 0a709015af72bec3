"""How TRL computes the head of a model: a tile of logits at a time (`trl.kernels.chunked_logprob`)."""

from __future__ import annotations

from tunefleet.backend.v1.backend_pb2 import HeadTiles

__all__ = ["HEAD_TILES"]

HEAD_TILES = HeadTiles(
    tokens=4096, entries=32768, cpu_copies=7, methods=["sft", "dpo", "ipo", "kto", "grpo", "rloo"]
)
"""For the plan. The copies are what its loop without Triton has at once; other methods keep whole logits."""
