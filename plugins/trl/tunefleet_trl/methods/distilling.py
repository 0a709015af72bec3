"""Distillation: the probabilities of a teacher that is read beside the model, or the answers of an endpoint.

White box is generalised knowledge distillation (arXiv:2306.13649), with the library's divergence: on
the answers of the rows, and with some probability on answers that the model draws itself. Every pass
over a micro batch counts the same, since the tokens of drawn answers are not known before.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig
from trl import SFTConfig, SFTTrainer

from tunefleet.job.v1.spec_pb2 import DistillMethod
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import RenderedRow, Renderer, TrainingRows, is_preflight_wanted
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.methods.collating import padded
from tunefleet_trl.preflight import preflight
from tunefleet_trl.trainer import RunTraining

with warnings.catch_warnings():  # that it may change is known: the lock names one version
    warnings.filterwarnings("ignore", message=r".*trl\.experimental")
    from trl.experimental.gkd import GKDTrainer

__all__ = ["distilling_trainer"]

_SHARE, _BETA, _LONGEST = 0.5, 0.5, 256
_IGNORED = -100


def distilling_trainer(
    context: RunContext, renderer: Renderer, rows: TrainingRows, hardware: Hardware, *, model: Any
) -> Any:
    """Return the trainer of a run of `distill` whose teacher is read beside the model.

    Args:
        context: The run.
        renderer: Tokenizer and template of the run.
        rows: Its rows.
        hardware: What it computes on.
        model: The base.
    """
    spec = context.order.resolved_spec
    return DivergenceTrainer(
        context=context,
        before_first_step=partial(_try_first, context, renderer, rows),
        options=spec.spec.train.method.distill,
        teacher=_teacher(context, hardware),
        stops=list(spec.chat_template.stop_token_ids),
        model=model,
        args=_arguments(context, rows, hardware),
        train_dataset=_dataset(rows.train),
        eval_dataset=_dataset(rows.validation) if rows.validation else None,
        data_collator=_PromptedCollator(pad_token_id=renderer.tokenizer.pad_token_id),
        processing_class=renderer.tokenizer,
        peft_config=adapter_config(spec),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptedCollator:
    """Rows to a batch, filled up on the right, with the tokens before each row's last answer."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        masks = [[int(label != _IGNORED) for label in row["labels"]] for row in rows]
        batch = padded(ids, masks, pad=self.pad_token_id)
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "labels": batch["input_ids"].masked_fill(batch["completion_mask"] == 0, _IGNORED),
            "prompt_tokens": torch.tensor([row["prompt_tokens"] for row in rows]),
        }


class _Divergence(SFTTrainer):
    """The divergence in the place of the loss, and answers drawn in the place of some of the rows'."""

    loss_is_scaled_for_ga = False
    teacher: Any
    _share: float
    _beta: float
    _drawing: Any

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        # Of Python's random state, which a checkpoint holds: a run that resumes draws the same.
        is_drawn = random.random() < self._share
        if is_drawn:
            inputs = self._with_own_answers(self._prepare_inputs(inputs))
        self._tell("on_policy", torch.tensor(float(is_drawn), device=self.accelerator.device))
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        taken = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = model(**taken, use_cache=False)
        with torch.no_grad():
            taught = self.teacher(**taken, use_cache=False).logits[:, :-1]
        ours, labels = outputs.logits[:, :-1], inputs["labels"][:, 1:]
        size = min(ours.shape[-1], taught.shape[-1])  # past the tokenizer's end some are filled up
        ours, taught = ours[..., :size].float(), taught[..., :size].float()
        loss = GKDTrainer.generalized_jsd_loss(ours, taught, labels=labels, beta=self._beta)
        with torch.no_grad():
            kl = GKDTrainer.generalized_jsd_loss(ours.detach(), taught, labels=labels, beta=0)
            self._tell("kl", kl)
            if self.model.training:
                tokens = self.accelerator.reduce(inputs["attention_mask"].sum(), "sum")
                self._total_train_tokens += int(tokens)
        return (loss, outputs) if return_outputs else loss

    def _tell(self, name: str, value: torch.Tensor) -> None:
        """Keep a figure of a pass, the mean of all processes; each of them has to tell it."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(float(self.accelerator.reduce(value, "mean")))

    @torch.no_grad()
    def _with_own_answers(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the same prompts, each with an answer that the model draws now."""
        counts = inputs["prompt_tokens"].tolist()
        prompts = [row[:count] for row, count in zip(inputs["input_ids"], counts, strict=True)]
        width = max(counts)
        pad = self._drawing.pad_token_id
        ids = torch.stack([_widened(row, width, value=pad) for row in prompts])
        mask = torch.stack([_widened(torch.ones_like(row), width, value=0) for row in prompts])
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        was_training = model.training
        model.eval()
        drawn = model.generate(input_ids=ids, attention_mask=mask, generation_config=self._drawing)[:, width:]
        model.train(was_training)
        ended = torch.isin(drawn, torch.tensor(self._drawing.eos_token_id, device=drawn.device)).int()
        kept = (ended.cumsum(dim=1) - ended == 0).int()  # up to the first stop token, that one included
        return {
            "input_ids": torch.cat([ids, drawn], dim=1),
            "attention_mask": torch.cat([mask, kept], dim=1),
            "labels": torch.cat(
                [torch.full_like(ids, _IGNORED), drawn.masked_fill(kept == 0, _IGNORED)], dim=1
            ),
        }


class DivergenceTrainer(RunTraining, _Divergence):
    """Distillation from a teacher's probabilities, tied to a run."""

    def __init__(
        self, *, options: DistillMethod, teacher: Any, stops: Sequence[int], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        # The library's loss of routers is no part of a divergence, and drawing an answer cannot compute it.
        config = self.model.config.get_text_config()
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False
        self.teacher = teacher
        self._share = options.on_policy_share if options.HasField("on_policy_share") else _SHARE
        self._beta = options.beta if options.HasField("beta") else _BETA
        self._drawing = GenerationConfig(
            max_new_tokens=options.max_completion_length or _LONGEST,
            do_sample=True,
            temperature=options.temperature or 1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(stops) or [self.processing_class.eos_token_id],
            pad_token_id=self.processing_class.pad_token_id,
        )

    def let_go(self) -> None:
        self.teacher = None
        super().let_go()


def _widened(row: torch.Tensor, width: int, *, value: int) -> torch.Tensor:
    """Return a row filled up on the left."""
    return torch.nn.functional.pad(row, (width - len(row), 0), value=value)


def _teacher(context: RunContext, hardware: Hardware) -> Any:
    order = context.order
    (companion,) = order.resolved_spec.companions
    model = load_base(companion.base, hardware)
    (folder,) = order.companion_adapter_dirs or ("",)
    if folder:
        model = load_adapter(model, folder)
    return model.eval().requires_grad_(False)


def _dataset(rows: Sequence[RenderedRow]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels() for row in rows],
            "prompt_tokens": [_before_last_answer(row) for row in rows],
        }
    )


def _before_last_answer(row: RenderedRow) -> int:
    """Return how many tokens stand before the last stretch that carries loss; at least one."""
    end = len(row.mask) - row.mask[::-1].index(1)
    start = next((at for at in range(end - 1, -1, -1) if not row.mask[at]), -1) + 1
    return max(1, start)


def _arguments(context: RunContext, rows: TrainingRows, hardware: Hardware) -> SFTConfig:
    return SFTConfig(
        max_length=None,  # rows were cut to size by policy, none is ever truncated
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        **common_arguments(context.order, hardware, rows=len(rows.train), validates=bool(rows.validation)),
    )


def _try_first(context: RunContext, renderer: Renderer, rows: TrainingRows, trainer: Any) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer, rows.train)
