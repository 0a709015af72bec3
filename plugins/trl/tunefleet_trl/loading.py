"""Load base and adapter: offline, safetensors only, no code from a model folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import go_quiet_and_offline
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.merged import stored_format
from tunefleet_core.rendering import first_line, unusable_base
from tunefleet_trl.library_gaps import close_library_gaps
from tunefleet_trl.quantising import CARRIER, keep_layout, mend_eight_bit, quantising_options

__all__ = [
    "FLASH",
    "Hardware",
    "hush_libraries",
    "load_adapter",
    "load_base",
    "prepare_hardware",
]

FLASH = "flash_attention_2"
_UNPACKED = "mxfp4"
"""A stored format that is unpacked while loading."""
_SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this, splitting a matrix product over cores costs more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Where a run computes: `cpu` or `cuda`, and the number type (`float32`, `bfloat16`)."""

    kind: str
    dtype: str
    attention: str = ""
    """The attention that was chosen for training; empty: the model's own."""
    is_liger: bool = False
    """Whether training uses Liger's kernels."""

    @property
    def is_padding_free(self) -> bool:
        """Whether a batch can be one sequence without padding: the attention reads positions itself."""
        return self.attention == FLASH


def hush_libraries() -> None:
    """Keep libraries from the network, the terminal and a job's log; call before importing them."""
    # Torch would tell each process that its search for parameters without a gradient found none:
    # it is asked for because experts that no token was sent to have none.
    go_quiet_and_offline(TORCH_CPP_LOG_LEVEL="ERROR")
    # It warns of a faster kernel that it would fetch from the network.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # There is nothing to page to where everything is on the host already.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    for library in ("transformers", "trl", "peft", "accelerate"):
        # What a library tells its own callers is no news to whoever reads a job's log.
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{library}\.")


def prepare_hardware(order: RunOrder, *, dtype: str) -> Hardware:
    """Choose device, number type and threads of a run, before the first tensor.

    Devices are hidden rather than indexed, so that index 0 is right in every library.
    """
    import torch

    gpus = [device for device in order.device_ids if not device.startswith("cpu")]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    kind = "cuda" if gpus and torch.cuda.is_available() else "cpu"
    if gpus and kind == "cpu":
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The run was given {', '.join(gpus)}, but torch finds no CUDA device.",
            hint="Install the CUDA environment of this backend: tunefleet plugins install trl",
        )
    if kind == "cuda" and order.HasField("place"):
        torch.cuda.set_device(order.place.rank)  # from here on "cuda" means this one
    small = order.resolved_spec.base.parameter_count < _SMALL_MODEL_PARAMETERS
    processes = order.place.world_size or 1
    threads = order.threads or (1 if small else max(1, (os.cpu_count() or 1) // processes))
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # the library would choose again, and say so
    torch.set_num_threads(threads)
    if kind == "cpu" and dtype == "float16":
        dtype = "float32"  # the library would take it in silence, and compute so
    return Hardware(kind=kind, dtype=dtype or ("bfloat16" if kind == "cuda" else "float32"))


def load_base(
    base: BaseFacts, hardware: Hardware, *, quantization: str = "", head_seed: int | None = None
) -> Any:
    """Load the weights of a base folder onto the device.

    Args:
        base: The base.
        hardware: Where to, and in which number type it computes.
        quantization: What to quantise linear layers to while loading: `nf4`, `fp4` or `int8`
            (see `quantising`); empty: as they are stored.
        head_seed: Load it to score instead of to write, with a head of one output in the place of
            the one over the vocabulary: the folder's own if it has one, else drawn from this seed.

    Raises:
        TunefleetError: BASE_INVALID naming what is wrong with the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind, head = AutoModelForCausalLM, dict[str, Any]()
    if head_seed is not None:
        set_seed(head_seed)
        kind, head = AutoModelForSequenceClassification, {"num_labels": 1}
    if not any(Path(base.path).glob("*.safetensors")):
        raise unusable_base(base, "it has no safetensors weights")
    try:
        with _without_load_report() if head else nullcontext():
            model = kind.from_pretrained(
                base.path,
                dtype=getattr(torch, hardware.dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                **({"attn_implementation": hardware.attention} if hardware.attention else {}),
                **_form(base, hardware, quantization),
                **head,
            )
    except (OSError, ValueError, KeyError) as error:
        raise unusable_base(base, f"its weights cannot be loaded: {first_line(error)}") from error
    close_library_gaps(model)
    if not quantization and stored_format(base) != CARRIER:
        if stored_format(base) == _UNPACKED:
            # How the files were packed is remembered: saved again, whole numbers would bear packed names.
            model._weight_conversions = None
        return model.to(hardware.kind)
    keep_layout(model)
    mend_eight_bit(model)
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep a report out of the log that says what was asked for: a new head in the place of another."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_adapter(model: Any, folder: str) -> Any:
    """Put a trained adapter on a base; returns the model that answers with it.

    Raises:
        TunefleetError: BASE_INVALID if the adapter does not fit the base.
    """
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"The adapter folder '{folder}' has no adapter_model.safetensors.",
            hint="Fetch the adapter again: tunefleet models fetch NAME",
            metadata={"path": folder},
        )
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"The adapter in '{folder}' does not fit this base: {first_line(error)}",
            hint="Use the adapter with the base it was trained on.",
            metadata={"path": folder},
        ) from error


def _form(base: BaseFacts, hardware: Hardware, quantization: str) -> dict[str, Any]:
    """Return the options that make weights what they are trained as, on their device at once."""
    if stored_format(base) == CARRIER:
        return {"device_map": {"": hardware.kind}}
    if not quantization:
        return _whole_numbers(base)
    return {**quantising_options(quantization, dtype=hardware.dtype), "device_map": {"": hardware.kind}}


def _whole_numbers(base: BaseFacts) -> dict[str, Any]:
    """Return what unpacks a base whose experts are stored as MXFP4: kernels for it have no backward pass."""
    if stored_format(base) != _UNPACKED:
        return {}
    from transformers import Mxfp4Config

    return {"quantization_config": Mxfp4Config(dequantize=True)}
