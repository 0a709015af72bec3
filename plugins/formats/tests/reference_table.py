"""Write docs/reference/formats.md from the formats.

python plugins/formats/tests/reference_table.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunefleet_core.catalog.format import EngineSupport, Format
from tunefleet_core.catalog.matrix import ENGINES, proofs
from tunefleet_formats.plugin import FORMATS

# None of these is installed here; what is read of them is light.
sys.path.extend(
    str(Path(__file__).resolve().parents[2] / name) for name in ("compress", "gguf", "mlx", "trl")
)
from tunefleet_compress import recipes as compress
from tunefleet_gguf import variants as gguf
from tunefleet_mlx import variants as mlx
from tunefleet_trl import quantising
from tunefleet_trl import written as trl

__all__ = ["PAGE", "cells", "page"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "formats.md"
RECORDED = Path(__file__).resolve().parent / "recorded"

_HEAD = """# Quantisation formats

Made by `plugins/formats/tests/reference_table.py` from the formats of `tunefleet-formats`.

A format is recognised by `config.json` and the headers of the weights. *Bits* are those of a quantised
weight with its scales and zero points, of the usual variant; of a checkpoint at hand they are taken from
its own tensors. *Held to* names the libraries whose checkpoints the tests compare with, byte for byte.

*Trained by* are the backends that train adapters on it, *written by* those that export it, and a column per
engine says who loads such a checkpoint. **proven**: a test of ours did it, of writing in every variant
(it is named in `core/tunefleet_core/catalog/matrix/proofs.json`, for engines below). **stated**: the library
says so.
A fleet's own table: `tunefleet catalog formats`.

*Written by* says what an export may cost: the mean distance, in nats, of the log-probabilities of the
reference prompts from those of the weights before. Beyond it nothing is kept. The exporter alone says it, for
it depends on the group sizes and number types that it chooses; the figures leave room for tiny test models,
which rounding hurts most, and a lost scale or tensor costs several nats.

"""
_COLUMNS = ("format", "bits", "calibrated", "trained by", "written by", *sorted(ENGINES), "held to")
_BY_HAND = "layouts written out in a test"


def page() -> str:
    """Return the page as Markdown."""
    rows = [_COLUMNS, ["---"] * len(_COLUMNS), *(cells(item) for item in FORMATS)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([f"{_HEAD}{table}\n", *(_section(item) for item in FORMATS)])


def cells(item: Format) -> Sequence[str]:
    """Return the row of a format in the table."""
    return (
        f"`{item.name}`",
        f"{item.bits_per_weight:.3f}",
        "yes" if item.needs_calibration else "no",
        _trainer(item.name),
        ", ".join(f"`{backend}`{_written(backend, item.name)}" for backend in _costs(item.name)) or "none",
        *(_standing(item.engines.get(engine)) for engine in sorted(ENGINES)),
        ", ".join(_libraries(item.name)) or _BY_HAND,
    )


def _trainer(name: str) -> str:
    """Return who trains on a format, and whether a test of ours did."""
    if name not in (trl.FORMAT, *quantising.FORMATS):
        return "none"
    is_proven = any(key.startswith("trl/sft/lora/") and key.split("/")[3] == name for key in proofs().trained)
    return f"`trl`{_only(name)}: {'proven' if is_proven else 'stated'}"


def _written(backend: str, name: str) -> str:
    """Return how much of what a backend writes of a format a test wrote and held to the numbers."""
    variants = _costs(name)[backend]
    forms = [""] if name == trl.FORMAT and backend == "trl" else list(variants)
    ran = sum(f"{backend}/{name}/{form}" in proofs().written for form in forms)
    if ran == len(forms):
        return ": proven"
    return f": proven for {ran} of {len(forms)}" if ran else ": stated"


def _only(name: str) -> str:
    return f" ({', '.join(trl.MODEL_TYPES)})" if name == trl.FORMAT else ""


def _standing(support: EngineSupport | None) -> str:
    if support is None:
        return "no"
    return "proven" if support.is_proven else "stated"


def _libraries(name: str) -> list[str]:
    """Return the libraries, with versions, that wrote the recorded checkpoints of a format."""
    found: set[str] = set()
    for path in sorted(RECORDED.glob("*.json")):
        recorded = json.loads(path.read_text())
        if _is_of(name, path.stem) and "libraries" in recorded:
            writer = next(key for key in recorded["libraries"] if key in _WRITERS)
            found.add(f"{writer} {recorded['libraries'][writer]}")
    return sorted(found)


_WRITERS = ("bitsandbytes", "auto-round", "llmcompressor", "mlx-lm", "gguf", "llama-cpp-python")


def _is_of(name: str, stem: str) -> bool:
    if name == "compressed-tensors":
        return stem.startswith("llmcompressor-w")
    return name in stem.split("-")


def _section(item: Format) -> str:
    lines = [
        f"## {item.name}",
        "",
        item.summary,
        "",
        *_sizes(item),
        f"- {item.made_by}",
        *(
            f"- **Written by:** `{backend}`, at most {_said(costs)} nats."
            for backend, costs in _costs(item.name).items()
        ),
        f"- **Source:** {item.source}.",
        "- **Loaded by:**",
        *(f"  - {_engine(engine, support)}" for engine, support in item.engines.items()),
        "- **Traps:**",
        *(f"  - {trap}" for trap in item.traps),
    ]
    return "\n".join(lines) + "\n"


def _sizes(item: Format) -> Iterator[str]:
    sizes = [f"`{variant.name}` {variant.bits_per_weight:.4f}" for variant in item.variants if variant.name]
    group = item.variants[0].group_size
    grouped = f", {group} weights to a scale" if group > 1 else ""
    yield f"- **Bits per weight:** {', '.join(sizes) or f'{item.bits_per_weight:.4f}'}{grouped}."


def _costs(name: str) -> Mapping[str, Mapping[str, float]]:
    """Return the backends that write a format, with the nats that each variant of theirs may cost."""
    found: dict[str, Mapping[str, float]] = {}
    if name in compress.FORMATS:
        found["compress"] = {form: recipe.tolerance for form, recipe in compress.FORMATS[name].items()}
    for backend, variants in (("gguf", gguf.VARIANTS), ("mlx", mlx.VARIANTS)):
        if name == backend:
            found[backend] = {form: variant.tolerance for form, variant in variants.items()}
    if name == trl.FORMAT:
        found["trl"] = {", ".join(trl.MODEL_TYPES): trl.TOLERANCE}
    return found


def _said(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{cost:g} (`{form}`)" if form else f"{cost:g}" for form, cost in costs.items())


def _engine(name: str, support: EngineSupport) -> str:
    parts = [f"`{name}` on {', '.join(support.device_kinds)}"]
    if support.least_compute_capability:
        parts.append(f"compute capability {support.least_compute_capability} or newer")
    if support.requires:
        parts.append(f"with `{support.requires}`")
    if support.flags:
        parts.append(f"flags `{' '.join(support.flags)}`")
    how = "proven" if support.is_proven else "stated"
    return f"{', '.join(parts)} ({how}: {support.source})."


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
