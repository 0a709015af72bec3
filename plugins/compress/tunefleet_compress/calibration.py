"""Calibrate with what the model was trained on: its own rows, by its own template, the very bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunefleet.job.v1.resolved_pb2 import ResolvedData, ResolvedSpec
from tunefleet_core.data import (
    COMPLETIONS,
    LABELLED,
    PAIRS,
    PROMPTS,
    TEXTS,
    Row,
    file_digest,
    form_of_file,
    read_completions,
    read_labelled,
    read_pairs,
    read_prompts,
    read_rows,
    read_texts,
)
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["calibration_ids"]

_MOST_TOKENS = 2048
"""Tokens of a row that are looked at, unless the model was trained on shorter ones."""


def calibration_ids(spec: ResolvedSpec, model_folder: Path) -> list[list[int]]:
    """Return the token ids of `calibration_rows` training rows, taken evenly over the files.

    Args:
        spec: What is exported.
        model_folder: A folder with the model's tokenizer.

    Raises:
        TunefleetError: DATA_INVALID if there is no training file, or one changed since.
    """
    files = [data for data in spec.data if data.role == "train"]
    if not files:
        raise TunefleetError(
            Reason.DATA_INVALID,
            "This format is calibrated with training rows, and the model names none.",
            hint="Choose a format that needs no rows, such as fp8, or export a model that was trained here.",
        )
    rows = [row for data in files for row in _rows(data)]
    many = min(spec.spec.export.quantize.calibration_rows or 128, len(rows))
    chosen = [rows[number * len(rows) // many] for number in range(many)]
    return _tokenize(chosen, spec, model_folder)


def _rows(data: ResolvedData) -> list[Row | str]:
    try:
        found = file_digest(data.path)
    except OSError as error:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"The training rows that calibrate the format cannot be read: {error.strerror}: '{data.path}'.",
            hint="Put the file back, or choose a format that needs no rows, such as fp8.",
            metadata={"path": data.path},
        ) from error
    if data.sha256 and found != data.sha256:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"'{data.path}' is not what the model was trained on any more, so it does not calibrate it.",
            hint="Put the file back as it was, or choose a format that needs no rows, such as fp8.",
            metadata={"path": data.path, "trained": data.sha256, "found": found},
        )
    return _wanted(data.path)


def _wanted(path: str) -> list[Row | str]:
    """Return what the model was to say: of preferences the chosen answer, of labels the good ones."""
    form = form_of_file(path)
    if form is TEXTS:
        return [row.text for row in read_texts(path)]
    if form is COMPLETIONS:
        return [row.row for row in read_completions(path)]
    if form is PAIRS:
        return [row.chosen_row for row in read_pairs(path)]
    if form is LABELLED:
        labelled = list(read_labelled(path))
        return [row.row for row in labelled if row.is_good] or [row.row for row in labelled]
    if form is PROMPTS:
        return [Row(line=row.line, messages=row.prompt, tools=row.tools) for row in read_prompts(path)]
    return list(read_rows(path))


def _tokenize(rows: Sequence[Row | str], spec: ResolvedSpec, model_folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(model_folder), local_files_only=True, trust_remote_code=False
    )
    bound = spec.adapter.trained_with.max_length or spec.spec.train.max_length or _MOST_TOKENS
    ids: list[list[int]] = []
    for row in rows:
        if isinstance(row, str):  # a text was trained without the template
            ids.append(list(tokenizer(row)["input_ids"])[: min(bound, _MOST_TOKENS)])
            continue
        rendered = tokenizer.apply_chat_template(
            row.as_chat(),
            tools=[dict(tool) for tool in row.tools] or None,
            chat_template=spec.chat_template.text,
            tokenize=True,
            return_dict=True,
        )
        ids.append(list(rendered["input_ids"])[: min(bound, _MOST_TOKENS)])
    return ids
