"""The page of formats says what the formats say."""

from __future__ import annotations

from reference_table import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "python plugins/formats/tests/reference_table.py writes it anew"
