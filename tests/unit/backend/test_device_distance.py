"""The engine that is made for a host's devices comes before one that also runs there."""

from __future__ import annotations

import pytest

from tunefleet_core.backend import backend_manifest, device_distance

ENGINES = {
    "embedded": ("cpu", "cuda", "metal"),
    "mlx": ("metal", "cpu"),
    "vllm": ("cuda", "cpu"),
}


@pytest.mark.parametrize(
    ("kinds", "best"),
    [(["cpu"], "embedded"), ([], "embedded"), (["cpu", "cuda"], "vllm"), (["metal"], "mlx")],
)
def test_the_nearest_engine_is_the_one_made_for_the_device(kinds: list[str], best: str) -> None:
    manifests = [
        backend_manifest(name=name, distribution=name, summary="", capabilities=[], device_kinds=known)
        for name, known in ENGINES.items()
    ]
    assert min(manifests, key=lambda manifest: device_distance(manifest, kinds)).name == best


def test_one_that_does_not_know_the_device_comes_last() -> None:
    mlx = backend_manifest(
        name="mlx", distribution="mlx", summary="", capabilities=[], device_kinds=ENGINES["mlx"]
    )
    assert device_distance(mlx, ["cuda"]) > device_distance(mlx, ["cpu"])
