"""docs/explanation/security.md lists what the red team tries, and what stops it."""

from __future__ import annotations

from pathlib import Path

from tests.support.redteam import ELSEWHERE, rows, table

PAGE = Path(__file__).parents[2] / "docs/explanation/security.md"


def test_every_attempt_is_in_the_docs() -> None:
    """The page's table is the one that the red team runs by."""
    assert table() in PAGE.read_text(), f"docs/explanation/security.md wants this table:\n\n{table()}\n"


def test_every_attempt_says_what_it_is_and_what_stops_it() -> None:
    """A row without either would be a gap that nobody sees; two of one name could not be told apart."""
    assert [row for row in rows() if not (row.name and row.shell and row.stopped_by)] == []
    assert len({row.name for row in rows()} | {row.name for row in ELSEWHERE}) == len(rows()) + len(ELSEWHERE)


def test_every_test_that_is_named_exists() -> None:
    """A row whose test has gone would be a claim."""
    for row in ELSEWHERE:
        file, _, function = row.test.partition("::")
        text = (Path(__file__).parents[1] / file).read_text()
        assert f"def {function}(" in text if function else "def test_" in text, row
