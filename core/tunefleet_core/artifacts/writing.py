"""Write whole or not at all: a name appears only when its content is on the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError, from_exception

__all__ = ["naming_full_disk", "sync_folder", "sync_tree", "write_whole_file", "write_whole_folder"]


@contextmanager
def naming_full_disk(path: Path) -> Generator[None]:
    """Make whatever says that the disk is full say where.

    A write to an open file does not know its path, a copy names its source, and libraries
    raise errors of their own. An error of ours has its figures and stays as it is.

    Raises:
        OSError: ENOSPC with `path` as its file name.
    """
    try:
        yield
    except TunefleetError:
        raise
    except Exception as error:
        if from_exception(error).reason is Reason.DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk. Raises OSError, ENOSPC among them."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root) / name)
        _sync(Path(root))


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, not what is in the files."""
    _sync(folder)


@contextmanager
def write_whole_folder(target: Path) -> Generator[Path]:
    """Yield an empty folder that becomes `target` if the block ends well, else is removed.

    An older `target` is replaced. The content is synced before the move, so a
    folder with the final name is complete even after a power cut.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(target):
            partial.mkdir(parents=True)
            yield partial
            sync_tree(partial)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
            sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_whole_file(target: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file under a temporary name, sync it, move it to `target`."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with naming_full_disk(target):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
