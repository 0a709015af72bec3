"""Read a base model's folder: everything a plan needs, without loading a weight.

Runs on the host that has the files; the facts travel to the coordinator, which
decides from them alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet.model.v1.base_pb2 import BaseFacts, SpecialToken
from tunefleet_core.catalog.format_registry import FormatRegistry
from tunefleet_core.catalog.hub_cache import find_snapshot, is_hub_id
from tunefleet_core.catalog.quantised import quantization_of
from tunefleet_core.catalog.refusal import base_invalid, parse_object, read_bounded, read_object
from tunefleet_core.catalog.tokenizer import is_token_id, read_tokenizer
from tunefleet_core.catalog.weights import WeightFile, base_digest, read_weights
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["read_base", "special_token_ids"]

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def read_base(
    source: Path | str, *, model: str = "", revision: str = "", formats: FormatRegistry | None = None
) -> BaseFacts:
    """Read the facts of a base model.

    Args:
        source: A local folder, or the id of a Hub model. One that was not downloaded yet is asked of
            the Hub: its small files and the headers of its weights.
        model: What the spec said, kept in the facts. Default: `source`.
        revision: Hub revision; a local folder has none.
        formats: The quantisation formats to recognise the weights by. Default: none, and a
            quantised base counts what it stores, not what that stands for.

    Raises:
        TunefleetError: BASE_INVALID, naming the file and what is wrong with it; HUB_UNREACHABLE,
            HUB_ACCESS_DENIED or DISK_FULL for a model of the Hub.

    Example:
        >>> facts = read_base("Qwen/Qwen3-0.6B", revision="main")  # doctest: +SKIP
        >>> facts.model_type  # doctest: +SKIP
        'qwen3'
    """
    try:
        found = _find(str(source), revision)
        return _read(found, formats or FormatRegistry(), model=model or str(source))
    except OSError as error:
        raise base_invalid(
            f"'{error.filename or source}' cannot be read: {error.strerror or error}.",
            hint="Let the user that runs the service read the model's folder and files.",
            path=source,
        ) from error


def special_token_ids(facts: BaseFacts) -> dict[str, int]:
    """Return the special tokens of a base, text to id."""
    return {token.text: token.id for token in facts.special_tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Where a base is: its folder, its Hub commit, its weight files if they are still at the Hub."""

    folder: Path
    commit: str = ""
    files: tuple[WeightFile, ...] | None = None


def _find(source: str, revision: str) -> _Found:
    folder = Path(source)
    if source and folder.is_dir():
        if revision:
            raise base_invalid(
                f"'{source}' is a local folder, which has no revision '{revision}'.",
                hint="Remove base.revision, or name a Hub id in base.model.",
                path=folder,
            )
        return _Found(folder=folder.absolute())
    if not is_hub_id(source):
        raise base_invalid(
            f"There is no model folder at '{source}'.",
            hint="Name a folder that exists on the host that runs the job, or a Hub id such as org/name.",
            path=folder,
        )
    snapshot = find_snapshot(source, revision)
    if snapshot is not None:
        return _Found(folder=snapshot.path.absolute(), commit=snapshot.commit)
    return _ask_hub(source, revision)


def _ask_hub(source: str, revision: str) -> _Found:
    try:
        from tunefleet_core.catalog.hub_remote import read_remote  # the library loads slowly, and is optional
    except ModuleNotFoundError as error:
        raise TunefleetError(
            Reason.HUB_UNREACHABLE,
            f"'{source}' is not on this machine, and the library that asks the model Hub is not installed.",
            hint="pip install 'tunefleet[hub]', or give the folder of a downloaded model in base.model.",
            metadata={"model": source},
        ) from error
    remote = read_remote(source, revision)
    return _Found(folder=remote.folder.absolute(), commit=remote.commit, files=remote.files)


def _read(found: _Found, formats: FormatRegistry, *, model: str) -> BaseFacts:
    folder, commit = found.folder, found.commit
    config_bytes = _config_bytes(folder)
    config = parse_object(config_bytes, folder / "config.json")
    text_config = _mapping(config.get("text_config"))
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise base_invalid(
            f"'{folder / 'config.json'}' does not say its 'model_type'.",
            hint="Take the config.json that belongs to the weights.",
            path=folder,
        )
    tokenizer = read_tokenizer(folder)
    files = read_weights(folder) if found.files is None else found.files
    stored = sorted((tensor for file in files for tensor in file.tensors), key=lambda tensor: tensor.name)
    names = [path.name for path in folder.iterdir()] + [file.path.name for file in files]
    quantization, tensors = quantization_of(config, stored, names, formats)
    generation_path = folder / "generation_config.json"
    generation = read_object(generation_path) if generation_path.is_file() else {}
    eos = [*_ids(generation), *_ids(config), *_ids(text_config), *tokenizer.eos_token_ids]
    special = sorted((token_id, text) for text, token_id in tokenizer.special_tokens.items())
    return BaseFacts(
        model=model,
        path=str(folder),
        commit=commit,
        model_type=model_type,
        architectures=[name for name in _items(config.get("architectures")) if isinstance(name, str)],
        config_json=config_bytes.decode("utf-8-sig"),
        tensors=tensors,
        parameter_count=sum(math.prod(tensor.shape) for tensor in tensors),
        weights_bytes=sum(file.weights_bytes for file in files),
        base_digest=base_digest(config_bytes, files),
        tokenizer_digest=tokenizer.digest,
        chat_template=tokenizer.chat_template,
        eos_token_ids=list(dict.fromkeys(eos)),
        max_positions=_positions(config, text_config) or tokenizer.model_max_length,
        special_tokens=[SpecialToken(id=token_id, text=text) for token_id, text in special],
        quantization=quantization,
    )


def _config_bytes(folder: Path) -> bytes:
    if (folder / "config.json").is_file():
        return read_bounded(folder / "config.json", limit_bytes=_MAX_CONFIG_BYTES)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        named = read_object(adapter).get("base_model_name_or_path")
        base = f"; it was trained on '{named}'" if isinstance(named, str) and named else ""
        raise base_invalid(
            f"'{folder}' is an adapter, and an adapter is not a base{base}.",
            hint="Name the base model in base.model; to use the adapter itself, deploy it or merge it first.",
            path=folder,
        )
    if any(path.suffix.lower() == ".gguf" for path in folder.iterdir()):
        raise base_invalid(
            f"'{folder}' holds a GGUF file, which llama.cpp runs and which is no base to train on.",
            hint="Name the model that it was made from, with config.json and safetensors files.",
            path=folder,
        )
    raise base_invalid(
        f"'{folder}' has no config.json, so it is no model folder.",
        hint="Name the folder that holds config.json, the tokenizer and the safetensors files.",
        path=folder,
    )


def _mapping(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _ids(config: Mapping[str, object]) -> list[int]:
    """Return `eos_token_id` of a config, which may be one id, a list or absent."""
    return [item for item in _items(config.get("eos_token_id")) if is_token_id(item)]


def _positions(config: Mapping[str, object], text_config: Mapping[str, object]) -> int:
    for name in _POSITIONS:
        for source in (config, text_config):
            value = source.get(name)
            if isinstance(value, int) and 0 < value < 2**31:
                return value
    return 0
