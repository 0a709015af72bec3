"""What a model folder has beside its weights: the base's own files, so that any engine reads them.

Config and tokenizer are copied rather than written anew, since a newer library writes forms
that older engines refuse.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts

__all__ = ["complete_model_folder"]

_FILE_MODE = 0o644
"""Libraries write weights as 0600, which another user's engine could not read."""
_COPIED = (
    "added_tokens.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def complete_model_folder(
    folder: Path, base: BaseFacts, *, dtype: str, template: str, stops: Sequence[int]
) -> None:
    """Write into a folder with weights what else a model has.

    Args:
        folder: The folder.
        base: The base the weights were made from; its folder must still be there.
        dtype: Number type of the weights, such as `bfloat16`.
        template: Jinja source of the chat template; it goes to `chat_template.jinja`.
        stops: Token ids that end an answer; they go to `generation_config.json`.
    """
    for name in _COPIED:
        source = Path(base.path) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    _settle_stops(folder / "generation_config.json", stops)
    _write_config(folder / "config.json", base, dtype=dtype)
    (folder / "chat_template.jinja").write_bytes(template.encode())
    for path in folder.iterdir():
        path.chmod(_FILE_MODE)


def _write_config(path: Path, base: BaseFacts, *, dtype: str) -> None:
    config: dict[str, Any] = json.loads(base.config_json)
    config.pop("quantization_config", None)  # these weights are whole numbers of their type
    inner: list[dict[str, Any]] = [value for value in config.values() if isinstance(value, dict)]
    named = [(part, key) for part in (config, *inner) for key in ("torch_dtype", "dtype") if key in part]
    for part, key in named or [(config, "dtype")]:
        part[key] = dtype
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _settle_stops(path: Path, stops: Sequence[int]) -> None:
    """Name what ends an answer as trained: an engine reads it here, where an adapter was told it."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if stops:
        config["eos_token_id"] = list(stops)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
