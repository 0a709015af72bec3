"""The page of formats says what the formats say."""

from __future__ import annotations

from reference_table import PAGE, cells, page

from tunefleet_formats.plugin import FORMATS


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "python plugins/formats/tests/reference_table.py writes it anew"


def test_every_variant_that_is_written_was_exported_by_a_test() -> None:
    """`proofs.json` is written by those tests, with TUNEFLEET_RECORD_PROOF set."""
    assert ": stated" not in "".join(cells(form)[4] for form in FORMATS)
    assert "proven for" not in "".join(cells(form)[4] for form in FORMATS)
