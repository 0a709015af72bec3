"""Variants are found by name; the manifest names the format and loads nothing."""

from __future__ import annotations

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_mlx.plugin import tunefleet_backends
from tunefleet_mlx.variants import USUAL_VARIANT, VARIANTS, find_variant


def test_variants_are_found_by_name_and_the_nearest_is_told() -> None:
    assert find_variant("").name == USUAL_VARIANT
    with pytest.raises(TunefleetError, match="4bit") as caught:
        find_variant("4bits")
    assert caught.value.reason is Reason.FIELD_INVALID


def test_fewer_bits_may_cost_more() -> None:
    tolerances = [variant.tolerance for variant in sorted(VARIANTS.values(), key=lambda item: -item.bits)]
    assert tolerances == sorted(tolerances)


def test_the_manifest_names_the_format() -> None:
    (manifest,) = tunefleet_backends()
    assert list(manifest.exported_formats) == ["mlx"]
