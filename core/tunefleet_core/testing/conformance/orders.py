"""What the kit asks of a backend: specs, orders and questions made of the tiny base."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet.job.v1.resolved_pb2 import ChatTemplate, ResolvedAdapter, ResolvedData, ResolvedSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog.base import read_base
from tunefleet_core.data import file_digest
from tunefleet_core.testing.conformance import tiny_base
from tunefleet_core.testing.conformance.profile import Profile

__all__ = ["EVERY_STEPS", "REQUESTS", "STEPS", "Orders"]

STEPS = 12
EVERY_STEPS = 4
ENDLESS_STEPS = 1_000_000
_SEED = 7


@dataclass(slots=True, kw_only=True)
class Orders:
    """Makes orders for one backend, below one folder; what they need is written once."""

    profile: Profile
    folder: Path
    _count: int = 0
    _base: BaseFacts | None = None
    _files: dict[str, Path] = field(default_factory=dict[str, Path])

    def base(self) -> BaseFacts:
        """Return the facts of the tiny base, written on first use."""
        if self._base is None:
            self._base = read_base(tiny_base.write_base(self.folder / "base"))
        return self._base

    def rows(self) -> Path:
        """Return a file of rows."""
        if "rows" not in self._files:
            self._files["rows"] = tiny_base.write_rows(self.folder / "rows.jsonl")
        return self._files["rows"]

    def adapter(self, number: int = 1) -> Path:
        """Return the folder of an adapter in PEFT form."""
        name = f"adapter-{number}"
        if name not in self._files:
            self._files[name] = tiny_base.write_adapter(
                self.folder / name, Path(self.base().path), seed=number
            )
        return self._files[name]

    def template(self) -> ChatTemplate:
        """Return the tiny base's chat template."""
        text = tiny_base.CHAT_TEMPLATE
        digest = hashlib.sha256(text.encode()).hexdigest()
        return ChatTemplate(
            text=text, source="base", sha256=digest, stop_token_ids=self.base().eos_token_ids, family="qwen3"
        )

    def train(self, *, steps: int = STEPS) -> ResolvedSpec:
        """Return a resolved training spec with every value given."""
        resolved = self._resolved("train")
        resolved.target_modules.extend(tiny_base.TARGET_MODULES)
        train = resolved.spec.train
        train.base.model = resolved.base.path
        train.data.train.add(source=str(self.rows()))
        train.method.sft.packing = False
        train.adapter.lora.rank, train.adapter.lora.alpha, train.adapter.lora.dropout = 4, 4.0, 0.05
        train.optim.learning_rate, train.optim.batch_size, train.optim.micro_batch_size = 1e-3, 4, 2
        train.optim.schedule, train.optim.max_grad_norm, train.optim.warmup_ratio = "constant", 1.0, 0.0
        train.optim.max_steps = steps
        train.max_length, train.over_long, train.seed, train.loss_on = 256, "drop", _SEED, "assistant"
        train.checkpoint.every_steps, train.checkpoint.keep = EVERY_STEPS, 10
        train.preflight = False  # it is asked for where it is examined
        return resolved

    def evaluate(self) -> ResolvedSpec:
        """Return a resolved evaluation of the base alone."""
        resolved = self._resolved("evaluate")
        evaluate = resolved.spec.evaluate
        evaluate.model.model = resolved.base.path
        evaluate.data = str(self.rows())
        evaluate.max_new_tokens, evaluate.batch_size = 4, 8
        return resolved

    def export(self) -> ResolvedSpec:
        """Return a resolved merge of an adapter into its base."""
        resolved = self._resolved("evaluate")
        resolved.ClearField("data")
        resolved.spec.export.model.model = "models/tiny"
        resolved.spec.export.merge.dtype = "float32"
        resolved.adapter.CopyFrom(ResolvedAdapter(model="models/tiny"))
        resolved.adapter.trained_with.CopyFrom(self.train().spec.train)
        return resolved

    def quantize(self) -> ResolvedSpec:
        """Return a resolved export of an adapter in a format."""
        resolved = self.export()
        resolved.spec.export.quantize.format = "gptq"
        return resolved

    def run(self, *, steps: int = STEPS, spec: ResolvedSpec | None = None) -> RunOrder:
        """Return an order for a run of a new name in a folder of its own."""
        name = self._name("run")
        resolved = spec or self.train(steps=steps)
        return RunOrder(
            run=name,
            job=f"projects/default/jobs/{name}",
            attempt=1,
            resolved_spec=resolved,
            resolved_spec_digest=hashlib.sha256(resolved.SerializeToString(deterministic=True)).hexdigest(),
            work_dir=str(self.folder / name),
            device_ids=["cpu-0"],
            threads=1,
        )

    def endless_run(self) -> RunOrder:
        """Return an order for a run that works until it is stopped."""
        return self.run(steps=ENDLESS_STEPS)

    def audit(self, path: Path | None = None) -> AuditOrder:
        """Return an order to audit a file of rows."""
        files = [AuditFile(role="train", path=str(path or self.rows()))]
        return AuditOrder(
            base=self.base(), chat_template=self.template(), files=files, max_length=256, loss_on="assistant"
        )

    def engine(self) -> EngineOrder:
        """Return an order for an engine of a new name that serves the tiny base."""
        name = self._name("engine")
        return EngineOrder(
            engine=name,
            base_path=self.base().path,
            served_name="tiny",
            chat_template=tiny_base.CHAT_TEMPLATE,
            work_dir=str(self.folder / name),
            device_ids=["cpu-0"],
            settings=self.profile.engine_settings,
        )

    def _resolved(self, role: str) -> ResolvedSpec:
        resolved = ResolvedSpec(base=self.base(), chat_template=self.template())
        resolved.spec.name = "conformance"
        resolved.spec.backend = self.profile.backend
        json_format.ParseDict(dict(self.profile.options), resolved.spec.backend_options)
        resolved.backend.name = self.profile.backend
        resolved.data.append(
            ResolvedData(
                role=role, path=str(self.rows()), sha256=file_digest(self.rows()), rows=16, weight=1.0
            )
        )
        return resolved

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


def _full(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.ClearField("adapter")
    resolved.ClearField("target_modules")
    return resolved


def _nf4(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.quantization = "nf4"
    return resolved


def _rslora(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.adapter.lora.rslora = True
    return resolved


def _dora(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.adapter.lora.dora = True
    return resolved


def _prompt_tuning(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.ClearField("target_modules")
    resolved.spec.train.adapter.prompt_tuning.num_virtual_tokens = 4
    return resolved


def _experts(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    lora = resolved.spec.train.adapter.lora
    lora.experts, lora.dropout = True, 0.0
    resolved.target_parameters.append("model.layers.0.mlp.experts.gate_up_proj")
    return resolved


def _samples(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.samples.prompts.append("red")
    resolved.spec.train.samples.every_steps, resolved.spec.train.samples.max_new_tokens = EVERY_STEPS, 2
    return resolved


def _best(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.data.validation = str(orders.rows())
    resolved.spec.train.checkpoint.best_by = "validation_loss"
    resolved.spec.train.early_stop.patience = 3
    resolved.data.add().CopyFrom(resolved.data[0])
    resolved.data[1].role = "validation"
    return resolved


def _rollback(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.divergence.max_rollbacks = 2
    return resolved


def _general(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.data.general = str(orders.rows())
    resolved.data.add().CopyFrom(resolved.data[0])
    resolved.data[1].role = "general"
    return resolved


def _timed(orders: Orders) -> ResolvedSpec:
    resolved = orders.train()
    resolved.spec.train.checkpoint.every_minutes = 10.0
    return resolved


REQUESTS: dict[Capability.ValueType, Callable[[Orders], ResolvedSpec]] = {
    Capability.CAPABILITY_TRAIN: Orders.train,
    Capability.CAPABILITY_SFT: Orders.train,
    Capability.CAPABILITY_LORA: Orders.train,
    Capability.CAPABILITY_FULL_FINE_TUNING: _full,
    Capability.CAPABILITY_EVALUATE: Orders.evaluate,
    Capability.CAPABILITY_QLORA_NF4: _nf4,
    Capability.CAPABILITY_RSLORA: _rslora,
    Capability.CAPABILITY_DORA: _dora,
    Capability.CAPABILITY_EXPERT_LORA: _experts,
    Capability.CAPABILITY_PROMPT_TUNING: _prompt_tuning,
    Capability.CAPABILITY_MERGE: Orders.export,
    Capability.CAPABILITY_QUANTIZE: Orders.quantize,
    Capability.CAPABILITY_SAMPLES: _samples,
    Capability.CAPABILITY_BEST_CHECKPOINT: _best,
    Capability.CAPABILITY_TIMED_CHECKPOINTS: _timed,
    Capability.CAPABILITY_ROLLBACK: _rollback,
    Capability.CAPABILITY_GENERAL_SET: _general,
}
"""Of each capability that a spec can ask for, a spec that asks for it."""
