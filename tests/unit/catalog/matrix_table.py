"""Write docs/reference/matrix.md from the matrix of what this repository ships.

    python tests/unit/catalog/matrix_table.py

The manifests are those of trl with every library it can have, of mlx and of deepspeed; families, formats,
engines and proofs are those that are committed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.catalog.matrix import ADAPTATIONS, ENGINES, Cell, Matrix, Standing, Verdict
from tunefleet_core.resolve.lint import RULES
from tunefleet_families.plugin import FAMILIES
from tunefleet_formats.plugin import tunefleet_formats

# They are not installed here.
sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "deepspeed"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "mlx"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "trl"))
from tunefleet_deepspeed.plugin import tunefleet_backends as deepspeed_backends
from tunefleet_mlx.plugin import tunefleet_backends as mlx_backends
from tunefleet_trl.plugin import tunefleet_backends

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "matrix.md"
_MARKS = {Standing.PROVEN: "proven", Standing.STATED: "stated", Standing.UNKNOWN: "?", Standing.NO: "no"}

_HEAD = """# What combines with what

Made by `tests/unit/catalog/matrix_table.py` from the table that refuses at submit; a test keeps it fresh.

- **proven**: a test of ours ran it; `core/tunefleet_core/catalog/matrix/proofs.json` names the test.
- **stated**: the library's own registry or documentation says so; no test of ours.
- **?**: nobody said or tried. It is let through, with a warning.
- **no**: it does not work; why, and what does instead, stands below.

`tunefleet catalog matrix` shows the same for the fleet as it stands, and `--family NAME` one family of it.
"""

_QUANTISED = ("nf4", "fp4", "int8")
"""What trl quantises a base to while loading, where bitsandbytes is installed."""
_OWN_QUANTISED = ("mlx4", "mlx8")
"""What mlx quantises a base to while loading."""


def page() -> str:
    """Return the page as Markdown."""
    (trl,) = tunefleet_backends()
    (mlx,) = mlx_backends()
    (deepspeed,) = deepspeed_backends()
    backends = [_whole(trl), _whole(mlx, _OWN_QUANTISED), _whole(deepspeed, ())]
    matrix = Matrix.of(backends, FAMILIES, tunefleet_formats())
    parts = [
        _HEAD,
        _training(matrix, "trl", (*_QUANTISED, "mxfp4")),
        _training(matrix, "mlx", _OWN_QUANTISED),
        _training(matrix, "deepspeed", ()),
        _methods(matrix, trl),
        _serving(matrix),
        _refusals(matrix, trl.methods),
        _engines(),
        _lint(),
    ]
    return "\n".join(parts)


def _whole(manifest: BackendManifest, quantised: Sequence[str] = _QUANTISED) -> BackendManifest:
    """Return the manifest as it is where every library is installed."""
    whole = BackendManifest()
    whole.CopyFrom(manifest)
    whole.plugin = manifest.plugin.partition("==")[0]  # a page does not change with a version
    for name in quantised:
        if name not in whole.trained_formats:
            whole.trained_formats.append(name)
    return whole


def _judge(matrix: Matrix, **cell: str) -> Verdict:
    return matrix.judge(Cell(**{"backend": "trl", "method": "sft", **cell}))


def _training(matrix: Matrix, backend: str, formats: Sequence[str]) -> str:
    columns = [(adaptation, "") for adaptation in ADAPTATIONS] + [("lora", name) for name in formats]
    titles = [f"{adaptation} on {name}" if name else adaptation for adaptation, name in columns]
    rows = [
        [
            f"`{family}`",
            *(
                _MARKS[
                    _judge(
                        matrix, backend=backend, family=family, adaptation=adaptation, format=name
                    ).standing
                ]
                for adaptation, name in columns
            ),
        ]
        for family in sorted(matrix.families)
    ]
    return f"## What `{backend}` trains, by supervised fine-tuning\n\n" + _table(["family", *titles], rows)


def _methods(matrix: Matrix, trl: BackendManifest) -> str:
    rows = [
        [
            f"`{family}`",
            *(
                _MARKS[_judge(matrix, family=family, adaptation="lora", method=method).standing]
                for method in trl.methods
            ),
        ]
        for family in sorted(matrix.families)
    ]
    head = "## What `trl` trains by other methods, with LoRA\n\n"
    return head + _table(["family", *(f"`{method}`" for method in trl.methods)], rows)


def _serving(matrix: Matrix) -> str:
    parts = ["## Who serves it", ""]
    for engine in sorted(ENGINES):
        rows = [
            [
                f"`{family}`",
                *(
                    _MARKS[_judge(matrix, family=family, adaptation=adaptation, engine=engine).standing]
                    for adaptation in ADAPTATIONS
                ),
            ]
            for family in sorted(matrix.families)
        ]
        parts += [f"### {engine}", "", _table(["family", *ADAPTATIONS], rows)]
    return "\n".join(parts)


def _refusals(matrix: Matrix, methods: Iterable[str]) -> str:
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for family in sorted(matrix.families):
        for adaptation in ADAPTATIONS:
            for engine in ("", *sorted(ENGINES)):
                cell = {"family": family, "adaptation": adaptation, "engine": engine}
                verdict = _judge(matrix, **cell)
                trained = _judge(matrix, **{**cell, "engine": ""})
                if verdict.works or (engine and not trained.works):
                    continue
                key = (engine or "train", verdict.reason, verdict.instead)
                found.setdefault(key, {})[f"{adaptation} of {family}"] = None
        for method in methods:
            verdict = _judge(matrix, family=family, adaptation="lora", method=method)
            if not verdict.works:
                found.setdefault(("train", verdict.reason, verdict.instead), {})[f"{method} of {family}"] = (
                    None
                )
    rows = [[engine, _few(list(what)), reason, instead] for (engine, reason, instead), what in found.items()]
    return "## Why not, and what does\n\n" + _table(["where", "what", "why not", "instead"], rows)


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _engines() -> str:
    rows = [
        [engine, registry.distribution if registry else "none", facts.source]
        for engine, facts in sorted(ENGINES.items())
        for registry in [engine_registries().get(engine)]
    ]
    return "## Where that is from\n\n" + _table(["engine", "registries read", "adapters"], rows)


def _lint() -> str:
    head = (
        "## The recipe lint\n\nEvery resolved value is held against this table; `tunefleet plan` shows what "
        "is unusual, and the job keeps it. Nothing is refused by it.\n"
    )
    rows = [[rule.name, f"`{rule.field}`", rule.usual, rule.source] for rule in RULES]
    return head + "\n" + _table(["rule", "field", "usual", "source"], rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
