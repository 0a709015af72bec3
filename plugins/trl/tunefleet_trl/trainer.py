"""TRL's trainers, tied to a run: they report, save and stop through the run's context.

Two things differ from the library. Checkpoints go through `context.checkpoint`, whole or
not at all, and hold what resuming needs and nothing that would have to be unpickled as
code. And progress goes to events, never to the terminal.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.nn.functional import pad
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTTrainer

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import Preflight
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError, from_exception
from tunefleet_core.rendering import naming_full_disk_of
from tunefleet_core.run_health import MemoryUse, ModelWork, out_of_memory, peak_flops, utilisation
from tunefleet_core.run_life import RunLife
from tunefleet_core.spec import LOFTQ, is_given_back
from tunefleet_trl.adaptation import is_full, settle_trainable
from tunefleet_trl.adapter_files import load_trained, save_adapter
from tunefleet_trl.initial_factors import InitialFactors
from tunefleet_trl.life.model_work import device_name, model_work
from tunefleet_trl.life.row_places import RowPlaces
from tunefleet_trl.loading import Hardware
from tunefleet_trl.memory import peak_memory_bytes
from tunefleet_trl.model_files import load_weights, save_weights
from tunefleet_trl.muon import MuonWithAdamW, muon_groups
from tunefleet_trl.optimising import MUON, quicken_b
from tunefleet_trl.packing import ROW_MASK
from tunefleet_trl.processes import (
    agreed,
    is_first,
    require_world,
    tell_repeated_rows,
    wait_for_all,
    writing_together,
)
from tunefleet_trl.reporting import RunReports
from tunefleet_trl.residual_factors import begin_with_residual
from tunefleet_trl.routing import ExpertLoad
from tunefleet_trl.token_columns import lengths_of

__all__ = ["RunTrainer", "RunTraining"]


class RunTraining:
    """What makes a trainer of the library one of a run: put it before the trainer's class.

    Checkpoints, metrics and stops belong to the run.
    """

    writes_answers = True
    """Whether the model writes; else it scores."""
    fills_up_epochs = True
    """Whether rows are repeated at the end of an epoch, so that each process takes as many batches."""
    kept_files: tuple[Path, ...] = ()
    """Files that every checkpoint holds too: what the run cannot get a second time."""

    # Of the library's trainer that stands behind this class.
    args: Any
    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    state: Any
    control: Any
    accelerator: Any
    callback_handler: Any
    train_dataset: Any
    data_collator: Any
    _metrics: Any
    _total_train_tokens: Any

    def __init__(
        self, *, context: RunContext, before_first_step: Callable[[Any], None], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        require_world(self.accelerator.num_processes, context.order)
        if self.fills_up_epochs:
            tell_repeated_rows(context, len(self.train_dataset), self.args.per_device_train_batch_size)
        train = context.order.resolved_spec.spec.train
        self._virtual_tokens = train.adapter.prompt_tuning.num_virtual_tokens
        self._b_ratio = train.adapter.lora.lora_plus_ratio or 1.0
        self.settle_weights()
        if train.adapter.lora.init == LOFTQ:
            begin_with_residual(self.model, context.order.resolved_spec.base)
        self.initial_factors = InitialFactors(self.model) if is_given_back(train) else None
        self.expert_load = ExpertLoad(self.model)
        self._context = context
        self._is_full = is_full(context.order.resolved_spec)
        self.before_first_step = before_first_step
        self.life: RunLife | None = None
        self.row_places = RowPlaces(())
        self._aside_seconds = 0.0
        self._work: ModelWork | None = None
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(RunReports(context, self))

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **further: Any) -> Any:
        if model.training:
            self.row_places.see(inputs)
        packed = inputs.pop(ROW_MASK, None)
        mask = inputs.get("attention_mask", packed)
        if mask is not None and self._virtual_tokens:
            mask = pad(mask, (self._virtual_tokens, 0), value=1)
        self.expert_load.expect(mask)
        if packed is not None and model.training:  # the library counts the length of a batch instead
            more = (packed.sum() - packed.shape[1]).reshape(1)
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(more).sum())
        return super().compute_loss(model, inputs, *arguments, **further)

    def train(self, *arguments: Any, **further: Any) -> Any:
        """Train as the library does; what does not fit into memory is told with the smallest fix.

        Raises:
            TunefleetError: OUT_OF_MEMORY naming field and value.
        """
        try:
            return super().train(*arguments, **further)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, TunefleetError) or from_exception(error).reason is not Reason.OUT_OF_MEMORY:
                raise
            step = f"Step {self.state.global_step + 1}"
            raise self.out_of_memory(max(self.row_lengths(), default=0), error, what=step) from error

    def out_of_memory(self, longest: int, error: BaseException, *, what: str) -> TunefleetError:
        """Return OUT_OF_MEMORY for a step whose longest row has so many tokens."""
        micro = self.args.per_device_train_batch_size
        batch = micro * self.args.gradient_accumulation_steps
        peak = peak_memory_bytes()
        use = MemoryUse(micro_batch_size=micro, batch_size=batch, longest=longest, peak_bytes=peak)
        return out_of_memory(use, error, what=what)

    def watch_utilisation(self, hardware: Hardware) -> None:
        """Tell with each step how much of the device's peak the model's work makes up, if it is known."""
        self._device, self._dtype = device_name(hardware), hardware.dtype
        self._work = model_work(self.model) if peak_flops(self._device, self._dtype) else None

    def utilisation(self, tokens_per_second: float, length: float) -> float | None:
        """Return the share of the device's peak at this pace, with rows of this mean length in tokens."""
        if self._work is None:
            return None
        return utilisation(
            self._work,
            tokens_per_second=tokens_per_second,
            length=length,
            device=self._device,
            dtype=self._dtype,
        )

    def leave_aside(self, seconds: float) -> None:
        """Tell that this much of the time since the last report was not spent on steps."""
        self._aside_seconds += seconds

    def take_aside(self) -> float:
        """Return what was left aside, and begin anew."""
        seconds, self._aside_seconds = self._aside_seconds, 0.0
        return seconds

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optim = self._context.order.resolved_spec.spec.train.optim
        if is_new and optim.optimizer == MUON:
            args = self.args
            self.optimizer = MuonWithAdamW(
                muon_groups(self.model if model is None else model, weight_decay=args.weight_decay),
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
            )
        optimizer = super().create_optimizer(model)
        if is_new and self._b_ratio != 1.0:
            quicken_b(optimizer, self.model if model is None else model, self._b_ratio)
        return optimizer

    def row_lengths(self) -> list[int]:
        """Return the tokens of each training row."""
        return lengths_of(self.train_dataset, "input_ids")

    def trial_batch(self, longest: list[int]) -> Any:
        """Return a batch of the given rows, as a step takes it."""
        return self.data_collator([self.train_dataset[row] for row in longest])

    def trained_in(self, batch: Any) -> Any:
        """Return how many tokens of such a batch carry loss; None: the trainer finds out itself."""
        is_trained = batch["completion_mask"] if "completion_mask" in batch else batch["labels"] != -100
        return is_trained.sum()

    def is_to_save(self) -> bool:
        """Whether the run is asked to save and end. Every process has to ask at the same points."""
        return bool(agreed(self._context.order, self._ends_by_saving()))

    def save_is_asked(self) -> bool:
        """Return whether this process knows of a wish to save, to end after it or to go on."""
        return self._ends_by_saving() or self._context.save_requested()

    def _ends_by_saving(self) -> bool:
        return self._context.stop_requested() == StopMode.STOP_MODE_SAVE

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        if self.life is not None and not (self.is_to_save() or self.life.may_save(step)):
            return
        with (
            writing_together(self._context.order, lambda: self._context.checkpoint(step)) as folder,
            naming_full_disk_of(Path(self._context.order.work_dir), Preflight()),
        ):
            # Resuming needs the last log only (tokens so far); the whole history would grow each checkpoint.
            self.state.log_history = self.state.log_history[-1:]
            self.write_checkpoint(folder)

    def write_checkpoint(self, folder: Path) -> None:
        """Write what resuming needs into an existing folder. Of several processes each adds its part."""
        self.write_training_state(folder)
        if is_first(self._context.order):
            for path in self.kept_files:
                shutil.copyfile(path, folder / path.name)
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            if self.life is not None:
                self.life.write(folder)
        wait_for_all(self._context.order)  # the adapter's writer clears what it finds beside it
        self._save_rng_state(str(folder))  # every process draws its own numbers

    def settle_weights(self) -> None:
        """Settle the number type of what is trained, before there is an optimiser."""
        settle_trainable(self.model)

    def write_training_state(self, folder: Path) -> None:
        """Write weights, optimiser and schedule. Every process is here: they may hold a part each."""
        if is_first(self._context.order):
            self.write_weights(folder)
            self._save_optimizer_and_scheduler(str(folder))

    def write_weights(self, folder: Path | None) -> None:
        """Write what is trained. Every process calls it where a state is kept; the first one has a folder."""
        if folder is None:
            return
        if self._is_full:
            save_weights(self.model, folder)
        else:
            save_adapter(self.model, folder, self._context.order.resolved_spec.base)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.scale_rates()

    def scale_rates(self) -> None:
        """Multiply the rates that a checkpoint knows with the factor of a run that was rolled back."""
        factor = self.life.rate_factor if self.life is not None else 1.0
        if factor != 1.0:
            schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
            schedule.base_lrs = [rate * factor for rate in schedule.base_lrs]
            schedule._last_lr = [rate * factor for rate in schedule._last_lr]
            for group in self.optimizer.param_groups:
                group["lr"] *= factor
                group["initial_lr"] *= factor

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._is_full:  # the library would pass over a weight whose name it does not find
            load_weights(self.model, Path(resume_from_checkpoint))
        elif self._virtual_tokens:
            load_trained(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def load_weights_of(self, folder: Path) -> None:
        """Take the weights of another step, written as in a checkpoint."""
        self._load_from_checkpoint(str(folder), self.accelerator.unwrap_model(self.model))

    def _run_epoch(self, **arguments: Any) -> None:
        # The library looks for the end only after a step: a run that resumes from its very last
        # checkpoint would train one step more than was asked for.
        has_ended = self.life is not None and self.life.is_over  # early, at the very step that was saved
        if has_ended or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        _set_epoch(arguments["train_dataloader"], arguments["epoch"])
        super()._run_epoch(**arguments)

    def let_go(self) -> None:
        """Drop weights and optimiser: another process of the run needs the memory now."""
        self.model = self.model_wrapped = self.optimizer = self.lr_scheduler = None
        self.ref_model = None
        self.callback_handler.model = self.callback_handler.optimizer = None
        self.accelerator.free_memory()
        gc.collect()

    def forget_metrics(self, tokens: int) -> None:
        """Forget what a trial step counted; `tokens` is the number that stands."""
        self._metrics["train"].clear()
        self.expert_load.forget()
        self._total_train_tokens = tokens

    def resume_tokens(self) -> None:
        """Go on counting tokens where the checkpoint stopped."""
        last = self.state.log_history[-1] if self.state.log_history else {}
        self._total_train_tokens = int(last.get("tokens_so_far", 0))

    def count_tokens(self) -> int:
        """Return the number of tokens processed so far, padding left out."""
        return int(self._total_train_tokens)


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the order of rows which epoch begins, however deep the library has wrapped it.

    A run of several processes that resumes within an epoch wraps it once more than the library
    looks, and would go on in the order of the first epoch.
    """
    batches = loader.batch_sampler
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    if hasattr(batches, "sampler") and hasattr(batches.sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)


class RunTrainer(RunTraining, SFTTrainer):
    """An SFTTrainer that belongs to a run."""
