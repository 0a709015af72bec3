"""Convert a model folder to one GGUF file in the number type it is stored in, with llama.cpp's converter.

A process of its own (`run_aside`): torch is loaded here and nowhere else. It also says how
the model's own tokenizer cuts texts, for the file to be held to.

The converter is part of llama.cpp's source package and is installed from there, unchanged,
as the packages `conversion` and `gguf`; the locks say how.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import REFERENCE_CONVERSATIONS, reference_prompts
from tunefleet_core.worker.aside import serve_aside

__all__ = ["convert"]

_PROBE = (
    "Hello  World, it's 12345.67 o'clock; DON'T!\r\n\r\n\tif x != y:\n    return (a[0])  # naïve Ünïcode "
    "東京タワー 한국어 русский हिन्दी 🙂🙂 \u200d ``` === -- ...   \n"
)
"""What pre-tokenizers cut differently: digits, contractions, capitals, spaces, line ends, scripts, signs."""
_FILES_WITH_CODE = ("config.json", "tokenizer_config.json")


def convert(source: Path, target: Path, *, name: str, pre_tokenizer: str) -> dict[str, Any]:
    """Write a GGUF file.

    Args:
        source: A model folder with safetensors weights.
        target: The file to write.
        name: Name of the model, for people who look into the file.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer; empty: found out.

    Returns:
        `texts` and `token_ids`: texts, and how the model's tokenizer cuts each.
        `pre_tokenizer`: the name in the file; empty for tokenizers that have none.

    Raises:
        TunefleetError: BASE_INVALID for a class or tokenizer that cannot be converted.
    """
    _require_no_code(source)
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(source, False)
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    try:
        model_class = get_model_class(architecture)
    except NotImplementedError as error:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"llama.cpp's converter does not know the class '{architecture}'.",
            hint="Export in another format: tunefleet catalog formats",
            metadata={"architecture": architecture},
        ) from error
    with torch.inference_mode():
        model = model_class(source, _file_type(source), target, model_name=name)
        used = _settle_pre_tokenizer(model, source, pre_tokenizer)
        model.write()
    texts = list(_texts(source))
    return {**texts_as_tokens(source, texts), "pre_tokenizer": "".join(used[-1:])}


def texts_as_tokens(source: Path, texts: list[str]) -> dict[str, Any]:
    """Return texts with the ids that a folder's tokenizer gives them, without tokens added around."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(source))
    return {
        "texts": texts,
        "token_ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
    }


def _texts(source: Path) -> Iterator[str]:
    from transformers import AutoTokenizer

    yield _PROBE
    for conversation in REFERENCE_CONVERSATIONS:
        yield from (str(message["content"]) for message in conversation.messages if message.get("content"))
    tokenizer = AutoTokenizer.from_pretrained(str(source))
    if not tokenizer.chat_template:
        return
    for prompt in reference_prompts():
        messages = [dict(message) for message in prompt.messages]
        try:
            yield tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template refuses a conversation in words of its own
            continue


def _file_type(source: Path) -> Any:
    """Return the file type that keeps the weights as they are."""
    import gguf
    from safetensors import safe_open

    names: dict[str, int] = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                part = tensors.get_slice(name)
                if len(part.get_shape()) > 1:
                    names[part.get_dtype()] = names.get(part.get_dtype(), 0) + 1
    most = max(names, key=lambda name: names[name], default="F32")
    kinds = {"F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16}
    return kinds.get(most, gguf.LlamaFileType.ALL_F32)


def _settle_pre_tokenizer(model: Any, source: Path, given: str) -> list[str]:
    """Make the converter use the name that was given, its own, or the one found in tokenizer.json."""
    known = model.get_vocab_base_pre
    used: list[str] = []

    def name(tokenizer: Any) -> str:
        from tunefleet_gguf.pre_tokenizer import name_pre_tokenizer

        if not given:
            found = name_pre_tokenizer(source)
            try:
                used.append(found or known(tokenizer))
            except NotImplementedError as error:
                raise TunefleetError(
                    Reason.BASE_INVALID,
                    f"llama.cpp's converter does not know how the tokenizer of '{source.name}' splits text.",
                    hint="Name it in backend_options.pre_tokenizer, such as `qwen2`.",
                    metadata={"path": str(source)},
                ) from error
        else:
            used.append(given)
        return used[-1]

    model.get_vocab_base_pre = name
    return used


def _require_no_code(source: Path) -> None:
    """Refuse a folder that names code of its own: the converter would load it."""
    for name in _FILES_WITH_CODE:
        file = source / name
        if file.is_file() and "auto_map" in json.loads(file.read_text(encoding="utf-8")):
            raise TunefleetError(
                Reason.BASE_INVALID,
                f"'{file}' names code to run (auto_map), and code from a model folder is not run.",
                hint="Take a model whose class the libraries know themselves.",
                metadata={"path": str(file)},
            )


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    return convert(
        Path(task["source"]), Path(task["target"]), name=task["name"], pre_tokenizer=task["pre_tokenizer"]
    )


if __name__ == "__main__":
    serve_aside(_work)
