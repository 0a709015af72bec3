"""The matrix: what combines with what, judged cell by cell from what is known of each side.

A pure function of backends' manifests, families and formats, with the engines' facts and
the proofs that ship beside it. Nothing is listed twice: the submit asks the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import has_capability
from tunefleet_core.catalog.family import Family
from tunefleet_core.catalog.format import Format
from tunefleet_core.catalog.matrix.adapters import ADAPTATIONS, PROMPT, spec_traits
from tunefleet_core.catalog.matrix.engines import ENGINES, Published, judge_adapter, judge_class
from tunefleet_core.catalog.matrix.proof_record import Proofs, proofs
from tunefleet_core.catalog.matrix.standing import Cell, Standing, Verdict
from tunefleet_core.catalog.matrix.training import METHODS, judge_training, spec_of, trained_formats
from tunefleet_core.spec.rules import QUANTIZATIONS

__all__ = ["Matrix", "combinations"]

_FULL = ADAPTATIONS[0]
_MERGE = "train.merge: true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What there is to combine.

    Attributes:
        backends: Manifests of backends that train, by name.
        families: Model families, by name.
        formats: Quantisation formats, by name.
        ran: What tests of ours ran.
    """

    backends: dict[str, BackendManifest]
    families: dict[str, Family] = field(default_factory=dict[str, Family])
    formats: dict[str, Format] = field(default_factory=dict[str, Format])
    ran: Proofs = field(default_factory=proofs)
    _judged: dict[Cell, Verdict] = field(default_factory=dict[Cell, Verdict])
    _working: dict[tuple[str, ...], tuple[Cell, ...]] = field(
        default_factory=dict[tuple[str, ...], "tuple[Cell, ...]"]
    )

    @classmethod
    def of(
        cls,
        backends: Iterable[BackendManifest],
        families: Iterable[Family] = (),
        formats: Iterable[Format] = (),
        *,
        ran: Proofs | None = None,
    ) -> Matrix:
        """Return the matrix of what is installed; of two of one name the first counts."""
        trains = Capability.CAPABILITY_TRAIN
        return cls(
            backends={item.name: item for item in reversed([*backends]) if has_capability(item, trains)},
            families={item.name: item for item in reversed([*families])},
            formats={item.name: item for item in reversed([*formats])},
            ran=proofs() if ran is None else ran,
        )

    def cells(self) -> Iterator[Cell]:
        """Yield every combination, by family, backend, method, adaptation, format, engine."""
        found = [
            Cell(
                backend=backend,
                method=method,
                adaptation=adaptation,
                format=quantization,
                family=family,
                engine=engine,
            )
            for backend, manifest in self.backends.items()
            for family in self._families_of(manifest)
            for method in self._methods()
            for adaptation in ADAPTATIONS
            for quantization in ("", *sorted({*self.formats, *trained_formats(manifest)}))
            for engine in ("", *self._engines_of(manifest))
        ]
        yield from sorted(found, key=lambda cell: cell.order)

    def judge(self, cell: Cell) -> Verdict:
        """Return what is said of a combination; what does not work comes with the nearest that does."""
        verdict = self._judge(cell)
        return verdict if verdict.works else replace(verdict, instead=self._instead(cell))

    def _methods(self) -> Sequence[str]:
        """Return the methods that some backend trains by; what nobody does is no question of combining."""
        known = {"sft"}.union(*(manifest.methods for manifest in self.backends.values()))
        return [method for method in METHODS if method in known]

    def _families_of(self, manifest: BackendManifest) -> Sequence[str]:
        # A backend that does not look at its base trains any family alike, or none.
        return list(self.families) if has_capability(manifest, Capability.CAPABILITY_INSPECT) else [""]

    def _engines_of(self, manifest: BackendManifest) -> Sequence[str]:
        own = self._own_engine(manifest)
        # What a backend trained without looking at its base, it alone can serve.
        inspects = has_capability(manifest, Capability.CAPABILITY_INSPECT)
        return own if own and not inspects else sorted({*ENGINES, *own})

    def _own_engine(self, manifest: BackendManifest) -> Sequence[str]:
        """Return the engine that a backend is itself, if it serves what it trains."""
        return [manifest.name] if has_capability(manifest, Capability.CAPABILITY_SERVE) else []

    def _judge(self, cell: Cell) -> Verdict:
        if cell not in self._judged:
            self._judged[cell] = self._judge_serving(cell) if cell.engine else self._judge_training(cell)
        return self._judged[cell]

    def _judge_serving(self, cell: Cell) -> Verdict:
        trained = self._judge(replace(cell, engine=""))
        return trained.and_then(self._served(cell)) if trained.works else trained

    def _judge_training(self, cell: Cell) -> Verdict:
        family = self.families.get(cell.family)
        verdict = judge_training(
            self.backends[cell.backend], cell.method, cell.adaptation, cell.format, family
        )
        if not verdict.works:
            return verdict
        model_types = family.model_types if family else ("",)
        test = self.ran.training_of(cell.backend, cell.method, cell.adaptation, cell.format, model_types)
        return Verdict(standing=Standing.PROVEN, reason=test) if test else verdict

    def _served(self, cell: Cell) -> Verdict:
        if cell.engine in self._own_engine(self.backends[cell.backend]):
            return Verdict(standing=Standing.STATED, reason=f"'{cell.backend}' serves what it trained")
        base = self._published(cell.family)
        is_adapter = cell.adaptation != _FULL
        # Learned embeddings ask nothing of a model's layers.
        by_class = judge_class(cell.engine, base, is_adapter=is_adapter and cell.adaptation != PROMPT)
        by_format = _judge_format(cell.engine, self.formats.get(cell.format), cell.format)
        verdicts = [by_class, by_format]
        if is_adapter:
            verdicts.append(_judge_adaptation(cell.engine, cell.method, cell.adaptation))
        verdict = functools.reduce(Verdict.and_then, (item for item in verdicts if item is not None))
        test = self.ran.serving_of(cell.engine, cell.adaptation, base.model_types)
        if verdict.works and test and not (by_format and by_format.standing is Standing.UNKNOWN):
            return Verdict(standing=Standing.PROVEN, reason=test)
        return verdict

    def _published(self, name: str) -> Published:
        family = self.families.get(name)
        if family is None:
            return Published(family=name)
        return Published(
            family=name,
            model_types=family.model_types,
            architectures=self.ran.classes_of(family.model_types),
        )

    def _instead(self, cell: Cell) -> str:
        """Return the nearest combination that works, as what to write; empty if there is none."""
        if cell.engine and cell.adaptation != _FULL and self._merges(cell):
            return f"{_MERGE}, and {cell.engine} serves the whole model"
        nearest = min(self._near(cell), key=lambda other: (_distance(cell, other), other.order), default=None)
        return "" if nearest is None else _difference(cell, nearest)

    def _merges(self, cell: Cell) -> bool:
        """Return whether the whole model that merging makes would be served."""
        merges = has_capability(self.backends[cell.backend], Capability.CAPABILITY_MERGE)
        whole = replace(cell, adaptation=_FULL, format="")
        merges = merges and cell.adaptation != PROMPT  # it is no part of any weight
        return merges and self._judge(replace(cell, engine="")).works and self._served(whole).works

    def _near(self, cell: Cell) -> Iterator[Cell]:
        """Yield the combinations of the same family and method that work and a job could be changed to."""
        for adaptation in dict.fromkeys((cell.adaptation, "lora", _FULL)):
            for quantization in dict.fromkeys((cell.format, "")):
                yield from self._known_to_work(cell, adaptation, quantization)

    def _known_to_work(self, cell: Cell, adaptation: str, quantization: str) -> tuple[Cell, ...]:
        """Return what works of a cell with any backend, and any engine if it is served.

        Kept: thousands of refused cells ask for the same few, each of them for dozens.
        """
        key = (cell.family, cell.method, adaptation, quantization, "served" if cell.engine else "")
        if key not in self._working:
            known = (Standing.PROVEN, Standing.STATED)
            near = replace(cell, adaptation=adaptation, format=quantization)
            asked = (
                replace(near, backend=name, engine=engine)
                for name, manifest in self.backends.items()
                for engine in (self._engines_of(manifest) if cell.engine else ("",))
            )
            self._working[key] = tuple(other for other in asked if self._judge(other).standing in known)
        return self._working[key]


def combinations(
    matrix: Matrix,
    *,
    backends: Sequence[str] = (),
    families: Sequence[str] = (),
    engines: Sequence[str] = (),
    standing: Standing | None = None,
) -> Iterator[tuple[Cell, Verdict]]:
    """Yield the cells of the matrix with what is said of each; what is left empty is not filtered by."""
    for cell in matrix.cells():
        if (
            (backends and cell.backend not in backends)
            or (families and cell.family not in families)
            or (engines and cell.engine not in engines)
        ):
            continue
        verdict = matrix.judge(cell)
        if standing is None or verdict.standing is standing:
            yield cell, verdict


@functools.cache
def _judge_adaptation(engine: str, method: str, adaptation: str) -> Verdict:
    return judge_adapter(engine, spec_traits(spec_of(method, adaptation, "")))


def _judge_format(engine: str, known: Format | None, name: str) -> Verdict | None:
    """Return whether an engine loads a base of this format; None if it need not.

    A base that is quantised while it is loaded for training is not quantised on disk: the
    engine loads it as it is. A base that comes quantised must be loaded so.
    """
    if not name or name in QUANTIZATIONS:
        return None
    support = known.engines.get(engine) if known else None
    if support is None:
        return Verdict(standing=Standing.NO, reason=f"{engine} is not known to load this format")
    return Verdict(standing=Standing.STATED, reason=f"{engine} loads {name}: {support.source}")


def _distance(cell: Cell, other: Cell) -> tuple[int, int]:
    """Return how much of a job changes: the number of fields, then what they cost."""
    costs = (
        (other.adaptation != cell.adaptation and other.adaptation != _FULL, 1),
        (other.format != cell.format, 2),
        (other.adaptation != cell.adaptation and other.adaptation == _FULL, 3),
        (other.engine != cell.engine, 4),
        (other.backend != cell.backend, 5),
    )
    paid = [cost for is_changed, cost in costs if is_changed]
    return len(paid), sum(paid)


def _difference(cell: Cell, other: Cell) -> str:
    """Return what to write in a job to get from one combination to another."""
    parts: list[str] = []
    if other.adaptation != cell.adaptation:
        asked = {"rslora": "rslora", "dora": "dora", "expert_lora": "experts"}.get(cell.adaptation)
        if other.adaptation == _FULL:
            parts.append("leave train.adapter out")
        elif cell.adaptation in (_FULL, PROMPT):
            parts.append(
                "add adapter: {lora: {}}" if cell.adaptation == _FULL else "take adapter: {lora: {}}"
            )
        else:
            parts.append(f"leave train.adapter.lora.{asked} out")
    if other.format != cell.format:
        is_made = cell.format in QUANTIZATIONS
        parts.append("leave train.quantization out" if is_made else "take a base that is not quantised")
    if other.engine != cell.engine:
        parts.append(f"train.intended_serving.engine: {other.engine}")
    if other.backend != cell.backend:
        parts.append(f"backend: {other.backend}")
    return ", ".join(parts)
