"""How the matrix looks: a table per backend, then every reason why something does not work, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.text import Text

from tunefleet.catalog.v1.catalog_service_pb2 import Combination, ListCombinationsResponse, Standing
from tunefleet_cli.output.output import Output, hanging
from tunefleet_cli.output.table import Column, Table

__all__ = ["show_matrix"]

_Key = TypeVar("_Key", bound="tuple[str, ...]")

_ALONE = "train"
_DIFFERS = "differs"
_MOST_NAMES = 3
# Word for pipes to symbol and style for people.
_LOOKS: Mapping[str, tuple[str, str]] = {
    "proven": ("●", "good"),
    "stated": ("○", "good"),
    "unknown": ("?", "faint"),
    "no": ("✗", "bad"),
    _DIFFERS: ("◐", "attention"),
}
_WORDS = {
    Standing.STANDING_UNSPECIFIED: "unknown",
    Standing.STANDING_PROVEN: "proven",
    Standing.STANDING_STATED: "stated",
    Standing.STANDING_NO: "no",
}


def show_matrix(output: Output, combinations: Sequence[Combination]) -> None:
    """Print what combines with what."""
    if output.is_json:
        output.message(ListCombinationsResponse(combinations=combinations))
        return
    if not combinations:
        output.note("No combination fits these filters.  tunefleet catalog matrix")
        return
    for (backend, method), items in _grouped(combinations, lambda item: (item.backend, item.method)).items():
        output.heading(f"{backend}, {method}")
        output.table(_table(output, items))
        _reasons(output, items)
    _legend(output)


def _table(output: Output, items: Sequence[Combination]) -> Table:
    engines = list(dict.fromkeys(item.engine for item in items))
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (adaptation, quantization), cells in _grouped(
        items, lambda item: (item.adaptation, item.format)
    ).items():
        words = tuple(_word(item for item in cells if item.engine == engine) for engine in engines)
        rows.setdefault((adaptation, words), []).append(quantization or "none")
    columns = [
        Column(title="ADAPTATION", style="accent"),
        Column(title="BASE FORMAT", wraps=True),
        *(Column(title=(engine or _ALONE).upper()) for engine in engines),
    ]
    return Table(
        columns=columns,
        rows=[
            [adaptation, _formats(formats, words), *(_cell(output, word) for word in words)]
            for (adaptation, words), formats in rows.items()
        ],
    )


def _formats(formats: Sequence[str], words: Iterable[str]) -> str:
    """Return formats by name; many with which nothing works only by their number."""
    if len(formats) > _MOST_NAMES and set(words) == {"no"}:
        return f"{'all' if 'none' in formats else 'other'} {len(formats)}"
    return " ".join(formats)


def _word(cells: Iterable[Combination]) -> str:
    words = {_WORDS[cell.standing] for cell in cells}
    return words.pop() if len(words) == 1 else _DIFFERS


def _cell(output: Output, word: str) -> Text | str:
    if not output.is_human:
        return word
    symbol, style = _LOOKS[word]
    return Text(symbol, style=style)


def _legend(output: Output) -> None:
    if not output.is_human:
        return
    meanings = {
        "proven": "a test of ours runs it",
        "stated": "its registry or documentation says so",
        "unknown": "nobody said or tried",
        "no": "does not work",
        _DIFFERS: "by family: --family NAME",
    }
    output.gap()
    for word, meaning in meanings.items():
        symbol, style = _LOOKS[word]
        output.show(hanging(Text(f"{symbol} ", style=style), Text(f"{word}: {meaning}", style="faint")))


def _reasons(output: Output, items: Sequence[Combination]) -> None:
    """Say once why things do not work; what the training itself refuses is not said again per engine."""
    refused = [item for item in items if item.standing == Standing.STANDING_NO]
    alone = {_without_engine(item) for item in refused if not item.engine}
    told = [item for item in refused if not item.engine or _without_engine(item) not in alone]
    all_of = _About.of(items)
    output.gap()
    for (engine, reason, instead), about in _grouped(
        told, lambda item: (item.engine, item.reason, item.instead)
    ).items():
        text = f"{engine or _ALONE}: {_which(_About.of(about), all_of)}: {reason}"
        if not output.is_human:
            output.line(f"{text}  instead: {instead}" if instead else text)
            continue
        output.show(hanging(Text("✗ ", style="bad"), Text(text)))
        if instead:
            output.show(hanging(Text("  instead: ", style="faint"), Text(instead, style="accent")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What combinations are about, each name once."""

    adaptations: tuple[str, ...]
    formats: tuple[str, ...]
    families: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[Combination]) -> _About:
        return cls(
            adaptations=tuple(dict.fromkeys(item.adaptation for item in items)),
            formats=tuple(dict.fromkeys(item.format for item in items)),
            families=tuple(dict.fromkeys(item.family for item in items)),
        )


def _which(about: _About, all_of: _About) -> str:
    """Return what a reason is about: adaptations, formats and families, if not all of them."""
    parts = [_names(about.adaptations, all_of.adaptations, "every adaptation")]
    if "" not in about.formats:
        parts.append(f"on {_names(about.formats, all_of.formats, 'every format')}")
    if len(about.families) < len(all_of.families):
        parts.append(f"of {_names(about.families, all_of.families, 'every family')}")
    return " ".join(parts)


def _names(names: Sequence[str], every: Sequence[str], all_of_them: str) -> str:
    if len(names) == len(every) > 1:
        return all_of_them
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def _without_engine(item: Combination) -> tuple[str, ...]:
    return item.family, item.backend, item.method, item.adaptation, item.format


def _grouped(
    items: Iterable[Combination], key: Callable[[Combination], _Key]
) -> dict[_Key, list[Combination]]:
    groups: dict[_Key, list[Combination]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
