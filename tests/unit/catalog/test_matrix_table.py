"""The page of the matrix says what the matrix says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
import matrix_table  # stands beside this file

from tunefleet_core.catalog.matrix import proofs

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_the_docs_is_fresh() -> None:
    written = matrix_table.PAGE.read_text(encoding="utf-8")
    assert written == matrix_table.page(), "python tests/unit/catalog/matrix_table.py"


def test_every_proof_names_a_test_that_is_there() -> None:
    ran = proofs()
    named = {*ran.trained.values(), *ran.served.values(), *ran.written.values()}
    assert named
    for name in named:
        path, _, test = name.partition("::")
        function = test.partition("[")[0]
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text(), re.MULTILINE), name
