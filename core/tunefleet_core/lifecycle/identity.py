"""How rows are told apart, and the labels that several kinds of rows carry."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Key", "Labels"]

Key: TypeAlias = tuple[str, str, str | int]
"""Identity of a row over all tables: (table, first key column, second key column or 0)."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Labels as sorted (name, value) pairs."""
