"""Invariants of the history's database after the faults. Reads nothing itself.

1. Its rows are those that archive, records and streams give: `ocf history rebuild` would change nothing.
2. An execution's row has the state of its record, and each of its facts has one.
3. A deleted execution and a destroyed session have no row.
"""

from __future__ import annotations

from collections.abc import Iterator

from faults.history_reader import History, Story

#: The fact that is a column of the execution.
_COLUMN = "archived"


def wrong_rows(history: History) -> Iterator[tuple[str, str]]:
    """Everything that is wrong: `project/execution` or `project/session`, and what."""
    for key in sorted({*history.rows, *history.rebuilt}):
        has, expected = history.rows.get(key, {}), history.rebuilt.get(key, {})
        for table in sorted({*has, *expected}):
            if has.get(table) != expected.get(table):
                yield key, f"{table} has {has.get(table)}, a rebuild gives {expected.get(table)}"
    for key, story in sorted(history.stories.items()):
        for what in _wrong_of(history, key, story):
            yield key, what
    for key, session in sorted(history.sessions.items()):
        if ("sessions" in history.rows.get(key, {})) != (session.record is not None):
            yield key, f"its session {'is' if session.record else 'is not'} there, its row otherwise"


def _wrong_of(history: History, key: str, story: Story) -> Iterator[str]:
    tables = history.rows.get(key, {})
    if story.first("cleaned") is not None:
        if tables:
            yield f"deleted, and left rows in {sorted(tables)}"
        return
    if story.record is None:
        return
    states = [row["status"] for row in tables.get("task_executions", [])]
    if states != [story.record["state"]]:
        yield f"its record is {story.record['state']}, its rows are {states}"
    rows = {row["event_id"] for row in tables.get("execution_events", [])}
    if missing := sorted(fact.what for fact in story.facts if fact.what != _COLUMN and fact.id not in rows):
        yield f"facts without a row: {missing}"
