"""YAML text as a tree with line marks, by the core schema of YAML 1.2.

PyYAML reads YAML 1.1, where `no` is False, `2e-4` is text and a repeated key wins in
silence. Its parser is kept, its meaning of scalars and its constructor are not: plain
scalars are resolved here (https://yaml.org/spec/1.2.2/#103-core-schema), repeated keys,
tags, NaN and infinity are refused, and aliases cannot grow a small file into a large one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

import yaml
from yaml import events

__all__ = ["MAX_BYTES", "Entry", "Node", "TreeError", "Value", "read_tree", "resolve_scalar"]

MAX_BYTES = 1024 * 1024
"""Largest text that is read, in bytes of UTF-8."""

_MAX_NODES = 50_000  # with every alias written out
_MAX_DEPTH = 64
_MAX_DIGITS = 64

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class TreeError(Exception):
    """The text is no YAML that is accepted here; `line` counts from 1."""

    def __init__(self, line: int, description: str) -> None:
        super().__init__(description)
        self.line = line
        self.description = description


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line it begins on; `size` counts its nodes with aliases written out."""

    line: int
    value: Value
    size: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a mapping and the line of its key."""

    line: int
    node: Node


Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | list[Node] | dict[str, Entry]


def read_tree(text: str) -> Node:
    """Return the tree of a YAML text that holds one document.

    Raises:
        TreeError: It is no such text.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise TreeError(1, f"is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        stream: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        return _Composer(stream).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be read"
        raise TreeError(mark.line + 1 if mark else 1, f"is not YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise TreeError(line, "is not YAML: holds a character that no text file holds") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as the escape \UFFFFFFFF
        raise TreeError(1, f"is not YAML: {str(error).splitlines()[0]}") from error


def resolve_scalar(text: str) -> Scalar:
    """Return what a plain scalar means under the core schema.

    Raises:
        ValueError: NaN, infinity, or a number too long to be meant.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_integer = _INT.fullmatch(text) is not None
    is_prefixed = _OCTAL.fullmatch(text) is not None or _HEX.fullmatch(text) is not None
    is_number = is_integer or is_prefixed or _FLOAT.fullmatch(text) is not None
    if is_number and len(text) > _MAX_DIGITS:
        raise ValueError(f"is a number of {len(text)} characters")
    if is_prefixed:
        return int(text, 0)
    if is_integer:
        return int(text)
    if _NOT_FINITE.fullmatch(text) or (is_number and not math.isfinite(float(text))):
        raise ValueError(f"must be a finite number, got {text}")
    return float(text) if is_number else text


class _Composer:
    """Builds the tree from the parser's events."""

    def __init__(self, stream: Iterator[yaml.Event]) -> None:
        self._stream = stream
        self._anchors: dict[str, Node | None] = {}
        self._size = 0

    def document(self) -> Node:
        """Return the one document of the stream."""
        root: Node | None = None
        for event in self._stream:
            if isinstance(event, events.DocumentStartEvent):
                if root is not None:
                    raise TreeError(_line(event), "holds a second document; a job file is one document")
                root = self._node(next(self._stream), depth=0)
        if root is None:
            raise TreeError(1, "is empty")
        return root

    def _node(self, event: yaml.Event, *, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, events.AliasEvent):
            return self._alias(event, line)
        assert isinstance(event, events.NodeEvent)  # the parser gives nothing else here
        tag: object = getattr(event, "tag", None)
        if tag is not None:
            raise TreeError(line, f"the tag {tag!s:.60} is not allowed; write plain YAML")
        if depth > _MAX_DEPTH:
            raise TreeError(line, f"is nested deeper than {_MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # open: an alias inside would refer to itself
        self._grow(1, line)
        if isinstance(event, events.ScalarEvent):
            node = Node(line, self._scalar(event, line))
        elif isinstance(event, events.SequenceStartEvent):
            node = self._sequence(line, depth)
        else:
            node = self._mapping(line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, line: int) -> Node:
        name = event.anchor
        if name not in self._anchors:
            raise TreeError(line, f"*{name} refers to no anchor before it")
        node = self._anchors[name]
        if node is None:
            raise TreeError(line, f"*{name} refers to itself")
        self._grow(node.size, line)
        return node

    def _grow(self, size: int, line: int) -> None:
        self._size += size
        if self._size > _MAX_NODES:
            raise TreeError(line, f"holds more than {_MAX_NODES} values, aliases written out")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        text: str = event.value
        _check_text(text, line)
        if event.style is not None:  # quoted or block: always text
            return text
        try:
            return resolve_scalar(text)
        except ValueError as error:
            raise TreeError(line, str(error)) from error

    def _sequence(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._stream), events.SequenceEndEvent):
            items.append(self._node(event, depth=depth + 1))
        return Node(line, items, 1 + sum(item.size for item in items))

    def _mapping(self, line: int, depth: int) -> Node:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._stream), events.MappingEndEvent):
            key, key_line = self._key(event)
            if key in entries:
                first = entries[key].line
                raise TreeError(key_line, f"'{key}' is given twice, first on line {first}")
            entries[key] = Entry(key_line, self._node(next(self._stream), depth=depth + 1))
        return Node(line, entries, 1 + sum(entry.node.size for entry in entries.values()))

    def _key(self, event: yaml.Event) -> tuple[str, int]:
        line = _line(event)
        if not isinstance(event, events.ScalarEvent) or event.tag is not None or event.anchor is not None:
            raise TreeError(line, "has a key that is not plain text")
        key: str = event.value
        _check_text(key, line)
        return key, line


def _check_text(text: str, line: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TreeError(line, "holds half a surrogate pair, which is no text") from None


def _line(event: yaml.Event) -> int:
    mark = cast("yaml.Mark", event.start_mark)  # absent only in events that are built by hand
    return mark.line + 1
