"""Bring the files of a model or of any manifest into a folder."""

from __future__ import annotations

from tunefleet_cli.invocation import Invocation

__all__ = ["fetch"]


def fetch(invocation: Invocation, what: str, folder: str) -> None:
    """Fetch and say what is there now.

    Args:
        invocation: How it was called.
        what: Name of a model, or digest of a manifest.
        folder: Where to; must not exist, or be empty.
    """
    from pathlib import Path

    from tunefleet_cli.output.quantities import bytes_text

    output = invocation.output()
    target = Path(folder).expanduser().absolute()
    with output.transfer(f"Fetching {what}") as progress:
        manifest = invocation.ask(lambda client: client.artifacts.fetch(what, target, progress=progress))
    size = bytes_text(sum(file.size_bytes for file in manifest.files))
    count = f"{len(manifest.files)} file{'s' if len(manifest.files) != 1 else ''}"
    output.result(
        manifest, name=str(target), text=f"{count}, {size}, are in {target}.", next_step=f"ls {target}"
    )
