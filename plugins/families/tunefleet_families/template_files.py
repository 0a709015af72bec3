"""Read chat templates, which are package data so that they can be diffed as Jinja."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["read_template"]


def read_template(name: str) -> str:
    """Return the text of `templates/<name>.jinja`, byte for byte (its digest is recorded)."""
    return (files("tunefleet_families") / "templates" / f"{name}.jinja").read_bytes().decode("utf-8")
