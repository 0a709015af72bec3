"""Reading an adapter folder and checking it against the base before the model is touched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tunefleet_embedded.engine.errors import AdapterRefused

_KINDS = ("LORA", "PROMPT_TUNING")
_PROMPT = "prompt_embeddings"
_PREFIX = "base_model.model."
_MERGE = "merge it into the base and serve the merged model"
# PEFT changes the base weights when it makes an adapter of these kinds, which would change every other answer
# too.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_REFUSED_OPTIONS = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
    "target_parameters": "LoRA on parameters that are no linear layer (fused experts)",
    "layer_replication": "layer replication",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained token embeddings",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """A checked adapter, still apart from the model."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFiles:
    """A checked adapter of prompt tuning: the embeddings before every prompt, [tokens, width]."""

    embeddings: torch.Tensor


def read_adapter(folder: Path, base: nn.Module) -> AdapterFiles | PromptFiles:
    """Reads a folder that PEFT wrote and compares it with the base.

    Raises:
        AdapterRefused: the folder is not a complete adapter, is of a kind that cannot be mixed, or does not
        fit.
    """
    config = _read_config(folder)
    if isinstance(config, PromptTuningConfig):
        return PromptFiles(embeddings=_fitting_prompt(config, _read_tensors(folder), base))
    _check_kind(config)
    tensors = _fitting_tensors(_read_tensors(folder), base)
    # The weights are loaded over whatever PEFT initialises: the plain, cheap way will do.
    config.init_lora_weights = True
    config.inference_mode = True
    config.lora_dropout = 0.0
    return AdapterFiles(config=config, tensors=tensors)


def _read_config(folder: Path) -> LoraConfig | PromptTuningConfig:
    file = folder / "adapter_config.json"
    if not file.is_file():
        hint = (
            "it looks like a base model"
            if (folder / "config.json").is_file()
            else "give the folder PEFT saved"
        )
        raise AdapterRefused(f"{folder} has no adapter_config.json; {hint}.")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.get("peft_type") not in _KINDS:
            raise AdapterRefused(
                f"The adapter is of type {raw.get('peft_type')}; only {' and '.join(_KINDS)} are served."
            )
        config = PeftConfig.from_pretrained(str(folder))
    except AdapterRefused:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise AdapterRefused(f"{file} cannot be read: {error}") from error
    assert isinstance(config, LoraConfig | PromptTuningConfig)
    return config


def _check_kind(config: LoraConfig) -> None:
    for option, name in _REFUSED_OPTIONS.items():
        if getattr(config, option, None):
            raise AdapterRefused(f"The adapter uses {name}, which cannot share a batch; {_MERGE}.")
    if config.bias != "none":
        raise AdapterRefused(
            f"The adapter trained biases (bias={config.bias}), which cannot share a batch; {_MERGE}."
        )
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(_INITS_THAT_CHANGE_THE_BASE):
        raise AdapterRefused(
            f"The adapter was made with init_lora_weights={init}, which needs a changed base; "
            "convert it to plain LoRA when saving (path_initial_model_for_weight_conversion)."
        )


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        pickle = (folder / "adapter_model.bin").is_file()
        hint = "save it as safetensors, pickles are not loaded" if pickle else "the folder is incomplete"
        raise AdapterRefused(f"{folder} has no adapter_model.safetensors; {hint}.")
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise AdapterRefused(f"{file} cannot be read: {error}") from error
    if not tensors:
        raise AdapterRefused(f"{file} holds no tensors.")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterRefused(f"Tensor {name} holds numbers that are not finite.")
    return tensors


def _fitting_prompt(
    config: PromptTuningConfig, tensors: dict[str, torch.Tensor], base: nn.Module
) -> torch.Tensor:
    learned = tensors.get(_PROMPT)
    if learned is None:
        raise AdapterRefused(f"The adapter lacks the tensor {_PROMPT} that its configuration names.")
    own: torch.Tensor = base.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    wanted = [config.num_virtual_tokens, own.shape[1]]
    if list(learned.shape) != wanted:
        raise AdapterRefused(
            f"The adapter does not fit this base: {_PROMPT} has shape {list(learned.shape)}, not {wanted}."
        )
    return learned


def _fitting_tensors(tensors: dict[str, torch.Tensor], base: nn.Module) -> dict[str, torch.Tensor]:
    """The LoRA matrices, each compared with the module it belongs to."""
    fitting: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        path, kind = _module_path(name)
        module = _base_module(base, path)
        if kind == "base_layer":
            _check_unchanged(name, tensor, module)
            continue
        expected = _expected_size(module, kind)
        actual = tensor.shape[1] if kind == "lora_A" else tensor.shape[0]
        if expected is not None and actual != expected:
            raise AdapterRefused(
                f"The adapter does not fit this base: {name} has shape {list(tensor.shape)}, "
                f"{path} needs {expected} where it has {actual}."
            )
        fitting[name] = tensor
    return fitting


def _base_module(base: nn.Module, path: str) -> nn.Module:
    try:
        module = base.get_submodule(path)
    except AttributeError:
        raise AdapterRefused(
            f"The adapter was trained on another architecture: this base has no module {path}."
        ) from None
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _check_unchanged(name: str, tensor: torch.Tensor, module: nn.Module) -> None:
    """PEFT saves the base's embedding beside LoRA on it.

    Loading it would replace that of every other answer.
    """
    own = module.get_parameter("weight")
    if tensor.shape != own.shape or not torch.equal(tensor.to(own.device, own.dtype), own):
        raise AdapterRefused(f"The adapter brings changed base weights ({name}); {_MERGE}.")


def _module_path(name: str) -> tuple[str, str]:
    """Splits `base_model.model.<module path>.lora_A.weight` into module path and kind."""
    if not name.startswith(_PREFIX):
        raise AdapterRefused(f"Tensor {name} does not follow PEFT's naming; save the adapter with PEFT.")
    parts = name.removeprefix(_PREFIX).split(".")
    for i, part in enumerate(parts):
        if part in ("base_layer", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
            return ".".join(parts[:i]), part
    raise AdapterRefused(f"Tensor {name} is no LoRA matrix; {_MERGE}.")


def _expected_size(module: nn.Module, kind: str) -> int | None:
    if kind == "lora_A":
        return getattr(module, "in_features", getattr(module, "nx", None))
    if kind == "lora_B":
        return getattr(module, "out_features", getattr(module, "nf", None))
    if kind == "lora_embedding_B":
        return getattr(module, "embedding_dim", None)
    return None
