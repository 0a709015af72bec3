"""Round the weights of a model by a recipe and write them, with llmcompressor. As a program: one export.

It is a process of its own, since nothing can break off a library that calibrates for an hour.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunefleet_compress.measuring import measure
from tunefleet_compress.recipes import Recipe, recipe_of
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.measured_aside import tops_to_json
from tunefleet_core.worker.aside import serve_aside

__all__ = ["Linears", "load_whole", "round_weights", "write_folder"]

_LEFT_ALONE = (
    "lm_head",
    "re:.*(vision|visual|audio).*",
    "re:.*(router|[.]gate|shared_expert_gate)$",
)
"""What every engine expects in whole numbers: the output layer, other senses, routers of experts."""
_FILE_MODE = 0o644
_COPIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


class Linears:
    """The layers of a model that are rounded, as the recipe's groups need to know them."""

    def __init__(self, model: Any) -> None:
        from compressed_tensors.utils import match_named_modules

        self.inputs: dict[str, int] = {
            name: int(module.in_features)
            for name, module in match_named_modules(model, ["Linear"], list(_LEFT_ALONE))
        }
        weights = sum(
            module.weight.numel() for _, module in match_named_modules(model, ["Linear"], list(_LEFT_ALONE))
        )
        self.share = weights / max(1, sum(parameter.numel() for parameter in model.parameters()))
        """Share of all the model's numbers that they hold."""

    def group_size(self, recipe: Recipe, form: str) -> int:
        """Return how many inputs share a scale: the first of the recipe's that divides every layer's.

        Raises:
            TunefleetError: CAPABILITY_UNSUPPORTED naming the layer that none divides.
        """
        for size in recipe.group_sizes:
            if all(inputs % size == 0 for inputs in self.inputs.values()):
                return size
        if not recipe.group_sizes:
            return 0
        least = recipe.group_sizes[-1]
        name, inputs = next((name, count) for name, count in self.inputs.items() if count % least)
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"{form} shares a scale among {least} inputs, and the layer '{name}' has {inputs}, "
            "which they do not divide.",
            hint="Choose a format without groups, such as fp8: tunefleet catalog formats",
            metadata={"capability": "QUANTIZE", "layer": name, "inputs": str(inputs)},
        )


def load_whole(folder: Path, *, dtype: str, device: str) -> Any:
    """Load whole weights: offline, safetensors only, no code from the folder.

    Args:
        folder: The model.
        dtype: Number type; empty: that of the folder.
        device: `cpu` or `cuda`.

    Raises:
        TunefleetError: BASE_INVALID naming what is wrong with the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype) if dtype else "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"The model in '{folder}' cannot be loaded: {(str(error).splitlines() or ['?'])[0].rstrip('.')}.",
            hint="Choose a model of a family that this backend's transformers knows: tunefleet plugins list",
            metadata={"path": str(folder)},
        ) from error
    return model.to(device)


def round_weights(
    model: Any, form: str, recipe: Recipe, *, group_size: int, rows: Sequence[Sequence[int]]
) -> None:
    """Round the weights of a model in place.

    Args:
        model: Of transformers, in the recipe's number type.
        form: `awq`, `gptq`, `fp8`, `mxfp4` or `nvfp4`.
        recipe: Of that format.
        group_size: From `Linears.group_size`.
        rows: Token ids that calibrate it; unused if the recipe needs none.
    """
    from datasets import Dataset
    from llmcompressor import oneshot

    calibration: dict[str, Any] = {}
    if recipe.needs_calibration:
        items = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in rows]
        calibration = {
            "dataset": Dataset.from_list(items),
            "num_calibration_samples": len(items),
            "max_seq_length": max(len(ids) for ids in rows),
            "shuffle_calibration_samples": False,
        }
    with _pinned_memory_where_there_is_a_gpu():
        oneshot(model=model, recipe=_modifier(form, recipe, group_size), **calibration)


def write_folder(model: Any, source: Path, target: Path) -> None:
    """Write a rounded model into an existing, empty folder, laid out as its source.

    The config is the source's own with the library's description of the rounding: a newer
    library writes other forms, which older engines refuse.
    """
    model.save_pretrained(str(target), save_compressed=True)
    written = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = written["quantization_config"]
    dtype = str(model.dtype).removeprefix("torch.")
    parts = (config, *(value for key, value in config.items() if key.endswith("_config")))
    named = [(part, key) for part in parts for key in ("torch_dtype", "dtype") if key in part]
    for part, key in named or [(config, "dtype")]:
        part[key] = dtype
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")
    (target / "generation_config.json").unlink(missing_ok=True)
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for path in target.iterdir():
        path.chmod(_FILE_MODE)


def _modifier(form: str, recipe: Recipe, group_size: int) -> Any:
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    if recipe.scheme:
        return QuantizationModifier(targets="Linear", scheme=recipe.scheme, ignore=list(_LEFT_ALONE))
    groups = _integers(recipe.bits, group_size)
    if form == "gptq":
        return GPTQModifier(config_groups=groups, ignore=list(_LEFT_ALONE))
    from llmcompressor.modifiers.awq import AWQModifier

    return AWQModifier(config_groups=groups, ignore=list(_LEFT_ALONE))


def _integers(bits: int, group_size: int) -> dict[str, Any]:
    """Return the scheme of symmetric integers; the library's own knows groups of 128 alone."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights = QuantizationArgs(
        num_bits=bits, type="int", strategy="group", group_size=group_size, symmetric=True, dynamic=False
    )
    return {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}


@contextmanager
def _pinned_memory_where_there_is_a_gpu() -> Generator[None]:
    """Let the library's AWQ pin memory only where that exists; without a GPU torch refuses it."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    own = torch.Tensor.pin_memory
    torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.pin_memory = own  # type: ignore[method-assign]


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    """Round and write one model; see `export.py` for the task."""
    import torch

    torch.set_num_threads(task["threads"])
    form, recipe = task["form"], recipe_of(task["form"], task["variant"])
    source, target = Path(task["source"]), Path(task["target"])
    model = load_whole(source, dtype=recipe.dtype, device=task["device"])
    linears = Linears(model)
    group_size = linears.group_size(recipe, form)
    before = measure(model, task["prompts"])
    dtype = str(model.dtype).removeprefix("torch.")
    round_weights(model, form, recipe, group_size=group_size, rows=task["rows"])
    write_folder(model, source, target)
    return {
        "before": tops_to_json(before),
        "dtype": dtype,
        "group_size": group_size,
        "layers": len(linears.inputs),
        "share": linears.share,
    }


if __name__ == "__main__":
    serve_aside(_work)
