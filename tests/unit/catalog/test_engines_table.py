"""The page of what engines take is the one that is made of what was found."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
import engines_table  # stands beside this file


def test_the_page_is_fresh() -> None:
    written = engines_table.PAGE.read_text(encoding="utf-8")
    assert written == engines_table.page(), "python tests/unit/catalog/engines_table.py"
