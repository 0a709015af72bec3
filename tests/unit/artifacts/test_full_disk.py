"""What says that the disk is full says where, and what has figures of its own keeps them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunefleet_core.artifacts import write_whole_folder
from tunefleet_core.errors import Reason, TunefleetError


def test_a_full_disk_is_named_by_the_folder_that_was_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="output") as caught, write_whole_folder(tmp_path / "output"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_an_error_that_says_how_much_is_missing_stays_as_it_is(tmp_path: Path) -> None:
    told = TunefleetError(Reason.DISK_FULL, "it takes 12 bytes, there are 3", hint="Free space.")
    with pytest.raises(TunefleetError) as caught, write_whole_folder(tmp_path / "output"):
        raise told
    assert caught.value is told
    assert not list(tmp_path.iterdir())
