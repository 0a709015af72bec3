"""What is recorded of bitsandbytes is what it writes: made again here, from a model made from nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes", reason="needs the trl environment: torch, transformers, bitsandbytes")

from record_bitsandbytes import FORMS, quantise  # after the question whether its library is there
from recording import RECORDED, read_headers
from tiny_base import build_base

from tunefleet_core.catalog import FormatRegistry, linear_modules, read_base
from tunefleet_formats.plugin import FORMATS

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


QUICK = ("nf4", "int8")
"""One of four bits and one of eight; the rest is left to the slow set."""
CASES = [pytest.param(form, marks=() if form in QUICK else pytest.mark.slow) for form in FORMS]


@pytest.mark.parametrize("form", CASES)
def test_a_fresh_checkpoint_is_as_recorded_and_counts_what_it_stands_for(
    base: Path, tmp_path: Path, form: str
) -> None:
    folder = quantise(base, tmp_path / form, FORMS[form])
    for path in base.glob("token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    recorded = json.loads((RECORDED / f"bitsandbytes-{form}.json").read_text())["tensors"]
    written = read_headers(folder)
    states = {name for name in written if "quant_state" in name}  # texts: a digit more or less
    assert {name: written[name] for name in written if name not in states} == {
        name: recorded[name] for name in recorded if name not in states
    }
    assert states == {name for name in recorded if "quant_state" in name}
    whole, facts = read_base(base), read_base(folder, formats=FormatRegistry(FORMATS))
    assert facts.quantization.format == form.partition("-")[0]
    assert facts.parameter_count == whole.parameter_count
    assert linear_modules(facts) == linear_modules(whole)
    number = sum(math.prod(shape) for shape in linear_modules(whole).values())
    left = (
        sum(tensor["bytes"] for tensor in written.values()) - number * facts.quantization.bits_per_weight / 8
    )
    assert left == pytest.approx((whole.parameter_count - number) * 2)  # the rest is bfloat16
