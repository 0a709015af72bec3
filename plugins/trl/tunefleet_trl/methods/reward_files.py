"""A reward model on disk: a whole model or an adapter with its head, and the scores it has to give again.

- every weight was trained: the base's own folder with other weights, of the library's class for
  sequence classification with one label
- an adapter: PEFT's folder; the head stands in it whole, as one of its `modules_to_save`
- `scores.json` in both: some conversations of the run as token ids, each with its score
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunefleet.job.v1.resolved_pb2 import CompanionModel, ResolvedSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_trl.adapter_files import save_adapter
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.methods.collating import padded
from tunefleet_trl.model_files import save_model_folder

__all__ = ["SCORES", "load_reward_model", "score_ids", "write_reward_model"]

SCORES = "scores.json"
_KEPT = 16
"""Conversations whose scores are kept."""
_AT_ONCE = 16
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference of a score from the one kept, by the coarser of both number types."""


def write_reward_model(
    trainer: Any,
    folder: Path,
    spec: ResolvedSpec,
    judged: Sequence[Sequence[int]],
    *,
    full: bool,
    dtype: str,
) -> None:
    """Write what was trained into an existing, empty folder.

    Args:
        trainer: The trainer, at its end.
        folder: Where to.
        spec: What was run.
        judged: Conversations as token ids; some are scored and kept.
        full: Whether every weight was trained.
        dtype: Number type of the computation, and of whole weights.
    """
    model = trainer.model
    if full:
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
        chat = spec.chat_template
        save_model_folder(model, folder, spec.base, template=chat.text, stops=list(chat.stop_token_ids))
        _name_head(folder / "config.json", model)
    else:
        save_adapter(model, folder, spec.base)
        (folder / "chat_template.jinja").write_bytes(spec.chat_template.text.encode())
    kept = [list(ids) for ids in judged[:_KEPT]]
    scores = [
        {"token_ids": ids, "score": score} for ids, score in zip(kept, score_ids(model, kept), strict=True)
    ]
    pad = model.config.get_text_config().pad_token_id  # scores are taken at the last token that is another
    text = json.dumps({"dtype": dtype, "pad_token_id": pad, "scores": scores}, indent=1) + "\n"
    (folder / SCORES).write_text(text, encoding="utf-8")


def load_reward_model(companion: CompanionModel, adapter_dir: str, hardware: Hardware) -> Any:
    """Load a reward model and prove that it scores as it did when it was trained.

    Args:
        companion: The model, as a resolved spec names it.
        adapter_dir: Folder of its adapter; empty: it is a whole model.
        hardware: Where to, and in which number type it computes.

    Raises:
        TunefleetError: BASE_INVALID for a folder without a head or scores, NUMBERS_MISMATCH.
    """
    folder = Path(adapter_dir or companion.base.path)
    if not (folder / SCORES).is_file():
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"'{folder}' holds no reward model: it has no {SCORES}.",
            hint="Name a model that a job with method: {reward: {}} made.",
            metadata={"path": str(folder)},
        )
    model = load_base(companion.base, hardware, head_seed=0)
    record = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    model.config.get_text_config().pad_token_id = record["pad_token_id"]
    if adapter_dir:
        model = load_adapter(model, adapter_dir)
    model.eval().requires_grad_(False)
    _require_same_scores(model, record, hardware, companion)
    return model


@torch.no_grad()
def score_ids(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the score of each conversation, given as token ids, with dropout off."""
    was_training = model.training
    model.eval()
    pad = model.config.get_text_config().pad_token_id
    scores: list[float] = []
    for first in range(0, len(rows), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        batch = padded(some, some, pad=pad)
        ids, mask = (batch[name].to(model.device) for name in ("input_ids", "attention_mask"))
        scores += model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float().tolist()
    model.train(was_training)
    return scores


def _name_head(path: Path, model: Any) -> None:
    """Say in a config that was the base's own what the weights beside it are."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [type(model).__name__]
    config["id2label"], config["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    config["pad_token_id"] = model.config.get_text_config().pad_token_id
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _require_same_scores(
    model: Any, record: Mapping[str, Any], hardware: Hardware, companion: CompanionModel
) -> None:
    wanted = [item["score"] for item in record["scores"]]
    found = score_ids(model, [item["token_ids"] for item in record["scores"]])
    tolerance = max(_TOLERANCE.get(name, 0.1) for name in (record["dtype"], hardware.dtype))
    for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
        if abs(one - other) > tolerance * max(1.0, abs(one)):
            raise TunefleetError(
                Reason.NUMBERS_MISMATCH,
                f"{companion.field}: the reward model scores conversation {index} of its record {other:.4f}, "
                f"and scored it {one:.4f} when it was trained.",
                hint="Name the base that it was trained on, unchanged, or train it again.",
                metadata={"field": companion.field, "path": companion.base.path},
            )
