"""Write docs/reference/formats.md from the formats.

python plugins/formats/tests/reference_table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tunefleet_core.catalog.format import EngineSupport, Format
from tunefleet_formats.plugin import FORMATS

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "formats.md"
RECORDED = Path(__file__).resolve().parent / "recorded"

_HEAD = """# Quantisation formats

Made by `plugins/formats/tests/reference_table.py` from the formats of `tunefleet-formats`.

A format is recognised by `config.json` and the headers of the weights. *Bits* are those of a quantised
weight with its scales and zero points, of the usual variant; of a checkpoint at hand they are taken from
its own tensors. *Held to* names the libraries whose checkpoints the tests compare with, byte for byte.
Who in a fleet trains on a format and writes it: `tunefleet catalog formats`.

| format | bits | variants | loaded by | calibrated | held to |
|---|---|---|---|---|---|
"""
_BY_HAND = "layouts written out in a test"


def page() -> str:
    """Return the page as Markdown."""
    rows = [_row(item) for item in FORMATS]
    return "\n".join([_HEAD + "\n".join(rows) + "\n", *(_section(item) for item in FORMATS)])


def _row(item: Format) -> str:
    variants = ", ".join(f"`{variant.name}`" for variant in item.variants if variant.name)
    cells = (
        f"`{item.name}`",
        f"{item.bits_per_weight:.3f}",
        variants or "one",
        ", ".join(item.engines),
        "yes" if item.needs_calibration else "no",
        ", ".join(_libraries(item.name)) or _BY_HAND,
    )
    return f"| {' | '.join(cells)} |"


def _libraries(name: str) -> list[str]:
    """Return the libraries, with versions, that wrote the recorded checkpoints of a format."""
    found: set[str] = set()
    for path in sorted(RECORDED.glob("*.json")):
        recorded = json.loads(path.read_text())
        if _is_of(name, path.stem) and "libraries" in recorded:
            writer = next(key for key in recorded["libraries"] if key in _WRITERS)
            found.add(f"{writer} {recorded['libraries'][writer]}")
    return sorted(found)


_WRITERS = ("bitsandbytes", "auto-round", "llmcompressor", "mlx-lm", "gguf")


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
        f"- **May cost:** {item.tolerance:g} nats, mean absolute difference of log-probabilities.",
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
