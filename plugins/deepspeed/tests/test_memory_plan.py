"""The plan of a run is held against what DeepSpeed says of the same model."""

from __future__ import annotations

import json

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from tunefleet.job.v1.resolved_pb2 import Estimate
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import memory_layout
from tunefleet_core.resolve.estimate import estimate_train
from tunefleet_deepspeed.plugin import tunefleet_backends
from tunefleet_trl.head_tiles import HEAD_TILES

PARAMETERS, HIDDEN, VOCABULARY = 7_000_000_000, 4096, 32_000
LARGEST = HIDDEN * VOCABULARY
_BUFFERS = 1.5
"""What the library multiplies the host's share with."""


def planned(devices: int, **options: object) -> Estimate:
    """Return the plan for every weight of a model in bfloat16."""
    spec = JobSpec(backend="deepspeed")
    spec.train.dtype = "bfloat16"
    spec.resources.devices = devices
    spec.backend_options.update(options)
    config = {"hidden_size": HIDDEN, "num_hidden_layers": 32, "vocab_size": VOCABULARY}
    facts = BaseFacts(parameter_count=PARAMETERS, config_json=json.dumps(config))
    layout = memory_layout(spec, tunefleet_backends()[0])
    return estimate_train(spec.train, facts, [], total_steps=1, layout=layout)


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(
    ("options", "offloaded"),
    [
        ({}, {"cpu_offload": False, "cpu_offload_params": False}),
        ({"offload_optimizer": "cpu"}, {"cpu_offload": True, "cpu_offload_params": False}),
        (
            {"offload_optimizer": "cpu", "offload_weights": "cpu"},
            {"cpu_offload": True, "cpu_offload_params": True},
        ),
    ],
)
def test_stage_3_is_planned_as_the_library_estimates_it(
    devices: int, options: dict[str, object], offloaded: dict[str, bool]
) -> None:
    host, device, _ = estimate_zero3_model_states_mem_needs(
        PARAMETERS, LARGEST, num_gpus_per_node=devices, **offloaded
    )
    plan = planned(devices, **options)
    assert plan.weights_bytes + plan.optimizer_bytes == device
    if offloaded["cpu_offload"]:  # else its figure is that of loading, one layer of each process
        assert plan.host_bytes * _BUFFERS == host


@pytest.mark.parametrize("devices", [2, 4])
def test_stage_2_is_planned_as_the_library_estimates_it(devices: int) -> None:
    host, device = estimate_zero2_model_states_mem_needs(PARAMETERS, num_gpus_per_node=devices)
    plan = planned(devices, zero_stage=2, offload_optimizer="cpu")
    assert (plan.weights_bytes + plan.optimizer_bytes, plan.host_bytes * _BUFFERS) == (device, host)
    _, device = estimate_zero2_model_states_mem_needs(
        PARAMETERS, num_gpus_per_node=devices, cpu_offload=False
    )
    plan = planned(devices, zero_stage=2)
    # It counts gradients in both number types here, and for stage 3 in one.
    assert plan.weights_bytes + plan.optimizer_bytes == device - 2 * PARAMETERS // devices


def test_stage_1_divides_the_optimiser_alone() -> None:
    """The paper's P_os, with gradients in float32: 2 + 4 bytes whole, 12 divided (arXiv:1910.02054)."""
    plan = planned(4, zero_stage=1)
    assert plan.weights_bytes == 2 * PARAMETERS
    assert plan.optimizer_bytes == 4 * PARAMETERS + 12 * PARAMETERS // 4


def test_the_head_is_cut_as_the_library_cuts_it() -> None:
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    tiles = tunefleet_backends()[0].head_tiles
    assert tiles.tokens == chunked_logprob.TOKEN_CHUNK_SIZE
    assert tiles.entries == utils._CHUNKED_LOGPROB_CHUNK_SIZE
    assert tiles.cpu_copies == HEAD_TILES.cpu_copies, (
        "it is the loop of the same library, held to a step there"
    )
    assert set(tiles.methods) <= set(HEAD_TILES.methods)
