from __future__ import annotations

import pytest

from tunefleet_core.run_health import ModelWork, peak_flops, utilisation


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA GeForce RTX 4090", "float32", 82.6e12),
        ("NVIDIA A100-SXM4-80GB", "float16", None),
        ("NVIDIA L400", "bfloat16", None),
        ("", "float32", None),
        ("cpu", "float32", None),
    ],
)
def test_a_peak_is_the_devices_own_or_unknown(device: str, dtype: str, peak: float | None) -> None:
    assert peak_flops(device, dtype) == peak


def test_full_training_costs_six_flops_for_each_parameter_and_a_frozen_base_four() -> None:
    full = ModelWork(parameters=1_000, trainable=1_000)
    adapter = ModelWork(parameters=1_000, trainable=10)
    assert full.flops_per_token(0) == 6_000
    assert adapter.flops_per_token(0) == 4_020


def test_attention_grows_with_the_length() -> None:
    work = ModelWork(parameters=1_000, trainable=1_000, layers=2, width=64)
    assert work.flops_per_token(128) - work.flops_per_token(0) == 12 * 2 * 64 * 128


def test_an_8b_model_at_3000_tokens_a_second_uses_half_of_an_a100() -> None:
    work = ModelWork(parameters=8_000_000_000, trainable=8_000_000_000)
    used = utilisation(
        work, tokens_per_second=3_250, length=1, device="NVIDIA A100-SXM4-80GB", dtype="bfloat16"
    )
    assert used == pytest.approx(0.5)


def test_where_nothing_is_known_nothing_is_said() -> None:
    work = ModelWork(parameters=1, trainable=1)
    assert utilisation(work, tokens_per_second=1, length=1, device="cpu", dtype="float32") is None
    assert utilisation(work, tokens_per_second=0, length=1, device="NVIDIA L4", dtype="bfloat16") is None
