"""Several LoRA adapters on one base, each row of a batch through its own.

PEFT holds the adapters: it finds the target modules, checks and loads the weights. Its mixed-batch forward,
however, loops over the adapters in every layer and registers a hook per module on every call, which costs
more than a small model's whole forward. For plain linear LoRA the router therefore switches PEFT's own path
off and adds the same sum in one pair of matmuls per layer: all adapters' A matrices are stacked, a mask per
row zeroes the columns of the others. Anything else that PEFT can mix (LoRA on embeddings) goes through
`model(..., adapter_names=[...])`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import functional

from tunefleet_embedded.engine.errors import AdapterRefused

_STACK = "*"
_PEFT_BASE_ROW = "__base__"


class _Plan(NamedTuple):
    """How the current forward treats its rows:

    Which weights, and the mask [rows, 1, stacked rank] or None.
    """

    key: str
    mask: torch.Tensor | None


@dataclass(slots=True)
class _LayerWeights:
    """One layer's adapters: slot -> (A [rank, in], scaled B [out, rank]); `*` is all of them stacked."""

    by_slot: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class LoraRouter:
    """Owns the PEFT model. Not thread-safe: the scheduler thread calls everything here."""

    def __init__(self, base: nn.Module, *, device: torch.device) -> None:
        self._base = base
        self._device = device
        self._peft: PeftModel | None = None
        self._layers: dict[LoraLayer, _LayerWeights] = {}
        self._hooked: set[int] = set()
        self._columns: dict[str, tuple[int, int]] = {}
        self._stacked_rank = 0
        self._through_peft: set[str] = set()
        self._plan: _Plan | None = None
        self._planned_rows: tuple[str | None, ...] | None = None
        self._peft_path_is_on = False

    def forward(self, slots: Sequence[str | None], **inputs: Any) -> Any:
        """The model's forward with row i through adapter `slots[i]`, None for the base."""
        if self._peft is None:
            return self._base(**inputs)
        if self._through_peft and any(slot in self._through_peft for slot in slots):
            self._switch_peft_path(on=True)
            self._plan = self._planned_rows = None
            return self._peft(adapter_names=[slot or _PEFT_BASE_ROW for slot in slots], **inputs)
        self._switch_peft_path(on=False)
        rows = tuple(slots)
        if rows != self._planned_rows:
            self._plan = self._make_plan(rows)
            self._planned_rows = rows
        return self._base(**inputs)

    def attach(self, slot: str, config: LoraConfig, tensors: dict[str, torch.Tensor]) -> None:
        """Adds an adapter and tries it.

        On any failure the model is as before and `AdapterRefused` says why.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # PEFT warns of tied or missing things that are checked below.
                self._add(slot, config, tensors)
            self._restack()
            self._try_out(slot)
        except Exception as error:
            self.detach(slot)
            if isinstance(error, AdapterRefused):
                raise
            raise AdapterRefused(f"PEFT could not put the adapter on this base: {error}") from error

    def detach(self, slot: str) -> None:
        """Removes an adapter and its memory. Does nothing for an unknown slot."""
        if self._peft is None:
            return
        if slot in self._peft.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # PEFT warns that another adapter becomes active; rows name theirs.
                self._peft.delete_adapter(slot)
        self._through_peft.discard(slot)
        self._restack()

    def _add(self, slot: str, config: LoraConfig, tensors: dict[str, torch.Tensor]) -> None:
        if self._peft is None:
            model = get_peft_model(self._base, config, adapter_name=slot)
            assert isinstance(model, PeftModel)
            self._peft = model
        else:
            self._peft.add_adapter(slot, config)
        self._peft.eval()
        result = set_peft_model_state_dict(self._peft, tensors, adapter_name=slot)
        if result.unexpected_keys:
            raise AdapterRefused(f"Tensor {result.unexpected_keys[0]} has no place in this base.")
        missing = [key for key in result.missing_keys if slot in key.split(".") and "lora_" in key]
        if missing:
            raise AdapterRefused(f"The adapter lacks the tensor {missing[0]} that its configuration names.")
        self._peft.requires_grad_(False)
        self._peft_path_is_on = True
        self._switch_peft_path(on=False)

    def _restack(self) -> None:
        """Stacks all adapters per layer. Runs on load and unload only, so a step never pays for it."""
        self._plan = self._planned_rows = None
        assert self._peft is not None
        layers = [module for module in self._peft.modules() if isinstance(module, LoraLayer)]
        ranks: dict[str, int] = {}
        self._through_peft = set()
        for layer in layers:
            for slot in layer.lora_embedding_A:
                self._through_peft.add(slot)
            for slot, module in layer.lora_A.items():
                if slot in layer.lora_variant or not isinstance(module, nn.Linear):
                    raise AdapterRefused(
                        "This kind of LoRA cannot share a batch; merge it into the base and serve that."
                    )
                ranks[slot] = max(ranks.get(slot, 0), module.out_features)
        self._columns, self._stacked_rank = {}, 0
        for slot, rank in ranks.items():
            if slot not in self._through_peft:
                self._columns[slot] = (self._stacked_rank, self._stacked_rank + rank)
                self._stacked_rank += rank
        for layer in layers:
            weights = self._layers.setdefault(layer, _LayerWeights())
            weights.by_slot = self._stacked(layer)
            if id(layer) not in self._hooked:
                self._hooked.add(id(layer))
                layer.register_forward_hook(self._hook(weights))

    @torch.no_grad()
    def _stacked(self, layer: LoraLayer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        slots = [slot for slot in layer.lora_A if slot in self._columns]
        if not slots:
            return {}
        example_a, example_b = layer.lora_A[slots[0]].weight, layer.lora_B[slots[0]].weight
        stack_a = example_a.new_zeros((self._stacked_rank, example_a.shape[1]))
        stack_b = example_b.new_zeros((example_b.shape[0], self._stacked_rank))
        out = {_STACK: (stack_a, stack_b)}
        for slot in slots:
            start, end = self._columns[slot]
            a, b = layer.lora_A[slot].weight, layer.lora_B[slot].weight
            stack_a[start : start + a.shape[0]] = a
            stack_b[:, start : start + a.shape[0]] = b * layer.scaling[slot]
            out[slot] = (stack_a[start:end], stack_b[:, start:end])
        return out

    def _hook(self, weights: _LayerWeights) -> Any:
        def add_lora(
            _layer: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor | None:
            plan = self._plan
            if plan is None:
                return None
            pair = weights.by_slot.get(plan.key)
            if pair is None:
                return None
            down = functional.linear(args[0].to(pair[0].dtype), pair[0])
            if plan.mask is not None:
                if down.dim() != 3 or down.shape[0] != plan.mask.shape[0]:
                    raise AdapterRefused(
                        "The adapter targets a module that sees tokens of several requests mixed "
                        "(a routed expert); merge it into the base and serve that."
                    )
                down = down * plan.mask
            return output + functional.linear(down, pair[1]).to(output.dtype)

        return add_lora

    def _make_plan(self, rows: tuple[str | None, ...]) -> _Plan | None:
        used = {slot for slot in rows if slot is not None}
        if not used:
            return None
        if len(used) == 1 and None not in rows:
            return _Plan(used.pop(), None)
        key = used.pop() if len(used) == 1 else _STACK
        mask = torch.zeros((len(rows), 1, self._stacked_rank), device=self._device)
        for i, slot in enumerate(rows):
            if slot is not None:
                start, end = self._columns[slot]
                mask[i, :, start:end] = 1
        if key != _STACK:
            start, end = self._columns[key]
            mask = mask[:, :, start:end]
        return _Plan(key, mask)

    def _switch_peft_path(self, *, on: bool) -> None:
        if self._peft is None or on == self._peft_path_is_on:
            return
        if on:
            self._peft.base_model.enable_adapter_layers()
        else:
            self._peft.base_model.disable_adapter_layers()
        self._peft_path_is_on = on

    @torch.inference_mode()
    def _try_out(self, slot: str) -> None:
        """One forward with a base row and a row of the new adapter: it must run and give finite numbers."""
        ids = torch.zeros((2, 2), dtype=torch.long, device=self._device)
        logits = self.forward([None, slot], input_ids=ids, use_cache=False).logits
        if not torch.isfinite(logits).all():
            raise AdapterRefused("The adapter gives numbers that are not finite on this base.")
