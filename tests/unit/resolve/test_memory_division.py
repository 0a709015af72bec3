"""A plan divides what a run keeps over its devices, as the options of its backend say."""

from __future__ import annotations

import json

import pytest
from resolve_lab import CONFIG, base_facts, chosen, resolve, train_spec

from tunefleet.backend.v1.backend_pb2 import MemoryPart
from tunefleet_core.backend import memory_placement
from tunefleet_core.resolve import ChosenBackend

WEIGHTS = MemoryPart.MEMORY_PART_WEIGHTS
STEPPED = (MemoryPart.MEMORY_PART_GRADIENTS, MemoryPart.MEMORY_PART_OPTIMIZER)
PLACEMENTS = [
    memory_placement(option="stage", value="1", divided=STEPPED[1:], copies_values=True),
    memory_placement(option="stage", value="3", is_default=True, divided=[WEIGHTS, *STEPPED]),
    memory_placement(option="stepped", value="cpu", moved=STEPPED),
    memory_placement(option="stepped", value="nvme", moved=STEPPED, is_on_disk=True),
    memory_placement(option="weights", value="cpu", moved=[WEIGHTS]),
    memory_placement(option="layers", value="yes", gathers_layers=True),
]
NUMBERS, MATRIX = 1120, 800
"""Of the base: all, and those of its largest matrix, the embedding."""


def splitting(device_kind: str = "cuda") -> ChosenBackend:
    return chosen(
        device_kind,
        memory_placements=PLACEMENTS,
        options_schema={"type": "object"},
        distributed_methods=["sft"],
    )


@pytest.mark.parametrize(
    ("options", "devices", "weights", "stepped", "host"),
    [
        # In bfloat16: weights of 2 bytes; gradients of 4, values and moments of 12.
        ({"stage": 0}, 4, NUMBERS * 2, NUMBERS * 16, 0),
        ({"stage": 1}, 4, NUMBERS * 2, NUMBERS * (4 + 12 / 4), 0),
        ({"stage": 3}, 4, NUMBERS * 2 / 4 + MATRIX * 4, NUMBERS * 16 / 4, 0),
        ({}, 4, NUMBERS * 2 / 4 + MATRIX * 4, NUMBERS * 16 / 4, 0),
        ({"stage": 3}, 1, NUMBERS * 2, NUMBERS * 16, 0),
        ({"stepped": "cpu"}, 4, NUMBERS * 2 / 4 + MATRIX * 4, 0, NUMBERS * 16),
        ({"stepped": "nvme"}, 4, NUMBERS * 2 / 4 + MATRIX * 4, 0, 0),
        ({"stepped": "cpu", "weights": "cpu"}, 1, MATRIX * 4, 0, NUMBERS * 18),
        ({"layers": "yes"}, 4, NUMBERS * 2 / 4 + 2 * MATRIX * 4, NUMBERS * 16 / 4, 0),
    ],
)
def test_each_device_keeps_its_share(
    options: dict[str, str | int], devices: int, weights: float, stepped: float, host: int
) -> None:
    spec = train_spec(adapter=False)
    spec.resources.devices = devices
    spec.backend_options.update(options)
    estimate = resolve(spec, backend=splitting()).spec.estimate
    assert (estimate.weights_bytes, estimate.optimizer_bytes) == (weights, stepped)
    assert estimate.host_bytes == host
    assert estimate.peak_bytes == weights + stepped + estimate.activation_bytes
    assert estimate.trainable_parameters == NUMBERS


def test_a_layer_comes_together_where_it_is_larger_than_what_stands_outside() -> None:
    spec = train_spec()
    spec.resources.devices = 2
    spec.backend_options.update({"layers": "yes"})
    config = json.dumps({**CONFIG, "vocab_size": 1, "tie_word_embeddings": True})
    facts = base_facts(config_json=config)
    estimate = resolve(spec, facts=facts, backend=splitting()).spec.estimate
    layer = (NUMBERS - 8) // 2
    assert estimate.weights_bytes == NUMBERS * 2 / 2 + layer * 2, "an adapter: no gradient of the base"


def test_an_engine_that_steps_on_copies_counts_them_in_float32_too() -> None:
    spec = train_spec(adapter=False)
    spec.backend_options.update({"stage": 1})
    copied = resolve(spec, backend=splitting("cpu")).spec.estimate
    spec.backend_options.update({"stage": 0})
    in_place = resolve(spec, backend=splitting("cpu")).spec.estimate
    assert copied.optimizer_bytes - in_place.optimizer_bytes == NUMBERS * 4
