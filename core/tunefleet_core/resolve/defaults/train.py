"""Training: what holds for every method, and which table holds the rest."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve.defaults import adapters, distill, online, preference, reward, sft_full, sft_lora
from tunefleet_core.resolve.defaults.filling import Defaults
from tunefleet_core.resolve.defaults.steps import micro_batch_size

__all__ = ["fill_train"]

_BATCH = 16
_DTYPES = {
    "cpu": ("float32", "the CPU computes in float32"),
    "cuda": ("bfloat16", "NVIDIA devices compute in bfloat16"),
    "metal": ("bfloat16", "Apple devices compute in bfloat16"),
}


def fill_train(
    defaults: Defaults, spec: JobSpec, *, parameters: int, device_kind: str, has_validation: bool
) -> None:
    """Fill what does not depend on the rows.

    Args:
        defaults: Where the decisions go.
        spec: The spec, changed in place.
        parameters: Number of parameters of the base; 0 if unknown.
        device_kind: Kind of device it will run on, such as `cuda`.
        has_validation: Whether there are validation rows.
    """
    train = spec.train
    if train.method.WhichOneof("method") is None:
        train.method.sft.SetInParent()
        defaults.note("train.method", "sft", "supervised fine-tuning, unless another method is named")
    method = train.method.WhichOneof("method") or "sft"
    if method in preference.METHODS:
        preference.fill(defaults, train, method=method)
    elif method in online.METHODS:
        online.fill(defaults, method=method, is_adapter=train.HasField("adapter"))
    elif method == distill.METHOD:
        distill.fill(defaults, train)
    elif method == reward.METHOD:
        reward.fill(defaults, is_adapter=train.HasField("adapter"))
    else:
        defaults.fill("train.method.sft.packing", False, "one row per sequence; packing is an option")
    # What was filled in for the method stays.
    if train.adapter.WhichOneof("adapter") == "lora":
        adapters.fill_lora(defaults, spec)
        sft_lora.fill(defaults, parameters=parameters, has_validation=has_validation)
    elif train.adapter.WhichOneof("adapter") == "prompt_tuning":
        adapters.fill_prompt_tuning(defaults)
        sft_lora.fill_epochs(defaults, has_validation=has_validation)
    else:
        sft_full.fill(defaults, has_validation=has_validation)
    _fill_optim(defaults, spec, parameters=parameters)
    for index, source in enumerate(train.data.train):
        if not source.HasField("weight"):
            source.weight = 1.0
            defaults.note(f"train.data.train[{index}].weight", 1.0, "every source counts by its rows")
        if not source.HasField("repeats"):
            source.repeats = 1
    defaults.fill("train.seed", 42, "fixed, so that a run can be repeated")
    defaults.fill("train.checkpoint.every_steps", 200, "bounds what a crash can cost")
    defaults.fill("train.checkpoint.keep", 3, "the newest, and two to go back to")
    dtype, why = _DTYPES.get(device_kind, ("float32", f"safe on a device of the kind '{device_kind}'"))
    defaults.fill("train.dtype", dtype, why)
    defaults.fill("train.loss_on", "assistant", "the model learns the answers, not the questions")


def _fill_optim(defaults: Defaults, spec: JobSpec, *, parameters: int) -> None:
    defaults.fill("train.optim.batch_size", _BATCH, "the same whatever the number of devices")
    rows, why = micro_batch_size(spec.train.optim.batch_size, parameters, devices=spec.resources.devices or 1)
    defaults.fill("train.optim.micro_batch_size", rows, why)
    optim = spec.train.optim
    if not optim.schedule:
        floor = f"{optim.min_lr_ratio:g} of the peak" if optim.min_lr_ratio else "0"
        defaults.fill("train.optim.schedule", "cosine", f"falls to {floor} at the end")
    if optim.schedule == "wsd":
        defaults.fill("train.optim.decay_ratio", 0.2, "falls in the last fifth of the steps")
    defaults.fill("train.optim.max_grad_norm", 1.0, "clips rare large gradients")
    defaults.fill("train.optim.weight_decay", 0.0, "none")
