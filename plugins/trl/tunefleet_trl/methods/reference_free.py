"""ORPO (arXiv:2403.07691) and SimPO (arXiv:2405.14734), by TRL's trainers: pairs without a second model.

Both take the mean log probability of an answer's tokens. The library's forward pass would train
ORPO on prompts as well, and knows no masks but its own; ours takes the batches of the other
methods on pairs. The losses are the library's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import set_seed

from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.loading import Hardware
from tunefleet_trl.methods.collating import PairCollator
from tunefleet_trl.methods.preference import longest_of, pair_columns
from tunefleet_trl.methods.rows import AnsweredRows
from tunefleet_trl.trainer import RunTraining

with warnings.catch_warnings():  # that they may change is known: the lock names one version
    warnings.filterwarnings("ignore", message=r".*trl\.experimental")
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

__all__ = ["REFERENCE_FREE", "reference_free_trainer"]

REFERENCE_FREE = ("orpo", "simpo")
"""The methods of this module."""

_ORPO_BETA = 0.1
_SIMPO_BETA = 2.0


class _RenderedRows(Dataset):
    """Rows that are token ids already: the library maps its own rendering over what it gets."""

    def map(self, *arguments: Any, **further: Any) -> Any:
        return self


class _MeanLogps(RunTraining):
    """What both trainers need: a forward pass over our batches, and counters of their own."""

    aux_loss_enabled: bool
    _stored_metrics: Any

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.use_dpo_data_collator = True  # else each validation warns that ours is another
        self._total_train_tokens = 0

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **further: Any) -> Any:
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *arguments, **further)

    def concatenated_forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        """Return mean log probabilities and logits of both answers, and the loss of the chosen ones.

        That loss counts every answer the same, as the paper's equation 1, so that it does not
        depend on how a batch is cut into passes.
        """
        ids, mask = batch["input_ids"], batch["completion_mask"]
        further = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False, **further)
        if self.aux_loss_enabled and model.training:
            self._stored_metrics["train"]["aux_loss"].append(float(outputs.aux_loss.detach()))
        labels = torch.where(mask == 1, ids, -100)
        logps = self.get_batch_logps(outputs.logits, labels, average_log_prob=True)  # pyright: ignore
        pairs = len(ids) // 2
        answers = logps[:pairs], logps[pairs:], outputs.logits[:pairs], outputs.logits[pairs:]
        auxiliary = (outputs.aux_loss,) if self.aux_loss_enabled else ()
        return (*answers, -logps[:pairs].mean(), *auxiliary)

    def row_lengths(self) -> list[int]:
        return longest_of(self.train_dataset, "chosen_ids", "rejected_ids")

    def forget_metrics(self, tokens: int) -> None:
        self._stored_metrics.clear()
        self.expert_load.forget()
        self._total_train_tokens = tokens


class OddsRatioTrainer(_MeanLogps, ORPOTrainer):
    """ORPO, tied to a run."""


class MeanMarginTrainer(_MeanLogps, CPOTrainer):
    """SimPO, tied to a run."""


def reference_free_trainer(
    context: RunContext, renderer: Renderer, rows: AnsweredRows, hardware: Hardware, **arguments: Any
) -> Any:
    """Return the trainer of a run of `orpo` or `simpo`.

    Args:
        context: The run.
        renderer: Tokenizer and template of the run.
        rows: Its rows.
        hardware: What it computes on.
        arguments: `model` and `before_first_step` of RunTraining.
    """
    spec = context.order.resolved_spec
    config = _arguments(context, rows, hardware)
    adapter = adapter_config(spec)
    if adapter is not None:
        # Not left to the library, which casts the base under an adapter to float32 if it is quantised.
        set_seed(config.seed)
        arguments["model"] = get_peft_model(arguments["model"], adapter)
    is_orpo = spec.spec.train.method.WhichOneof("method") == "orpo"
    trainer = OddsRatioTrainer if is_orpo else MeanMarginTrainer
    return trainer(
        context=context,
        args=config,
        train_dataset=_RenderedRows.from_dict(pair_columns(rows.train)),
        eval_dataset=_RenderedRows.from_dict(pair_columns(rows.validation)) if rows.validation else None,
        data_collator=PairCollator(pad_token_id=renderer.tokenizer.pad_token_id),
        processing_class=renderer.tokenizer,
        **arguments,
    )


def _arguments(context: RunContext, rows: AnsweredRows, hardware: Hardware) -> Any:
    train = context.order.resolved_spec.spec.train
    common = common_arguments(
        context.order, hardware, rows=len(rows.train), validates=bool(rows.validation)
    ) | {
        "max_length": train.max_length or 1,  # asked for by the library, used by its own rendering only
        "remove_unused_columns": False,
        "disable_dropout": not train.adapter.lora.dropout,
    }
    if train.method.HasField("orpo"):
        return ORPOConfig(beta=train.method.orpo.beta or _ORPO_BETA, **common)
    simpo = train.method.simpo
    beta = simpo.beta or _SIMPO_BETA
    return CPOConfig(
        loss_type="simpo",
        cpo_alpha=0.0,
        beta=beta,
        simpo_gamma=simpo.gamma if simpo.HasField("gamma") else beta / 2,
        **common,
    )
