"""Queries of the history. Every page is read by its place in time (keyset), so that a deep page costs no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, case, exists, false, func, literal_column, select, text
from sqlalchemy import tuple_ as row_of

from ocf.events.command_payloads import TRIGGER_LABEL
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import State
from ocf.events.output import Usage
from ocf.functions.database.history_upserts import OPEN, words_of
from ocf.functions.database.tables import Kept, executions, labels, removed_costs, sessions

_COLUMNS = executions.c
_ORDER = (_COLUMNS.submitted_at, _COLUMNS.execution_id, _COLUMNS.project_id)
_SAME = (labels.c.project_id == _COLUMNS.project_id) & (labels.c.execution_id == _COLUMNS.execution_id)
_LISTED = [
    column
    for column in _COLUMNS
    if column.name not in ("id", "day", "result", "words", "archive_expired", "output_expired", "evicted")
]
#: Executions above which SQLite looks for words in the order of time, not by the text index.
FREQUENT = 1_000
#: Labels up to which a compiled statement is kept for the next query: each has 24 kB of it.
_COMPILED_LABELS = 4
Group = Literal["project", "model", "day", "label"]

#: Time of submission or creation, execution or session, project.
Position = tuple[datetime, str, str]


@dataclass(frozen=True)
class Filter:
    """Filter of executions: every condition that is set must hold. Times limit the submission."""

    projects: frozenset[str] | None = None
    states: frozenset[State] = frozenset()
    #: Names and values; the value None stands for any.
    labels: tuple[tuple[str, str | None], ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    session_id: str | None = None
    task_id: str | None = None
    #: Beginnings of words of the title or the result; all of them.
    text: str | None = None
    #: Beginning of the execution's id.
    id_prefix: str = ""
    #: Day of the submission in UTC.
    day: str | None = None
    #: The execution that they run again.
    rerun_of: str | None = None


def page(connection: Connection, wanted: Filter, limit: int, after: Position | None = None) -> list[dict[str, Any]]:
    """Return the newest `limit` executions below `after`, with the fields of `TaskSummary`."""
    query, order = select(*_LISTED), _ORDER
    first = next(((name, value) for name, value in wanted.labels if value is not None), None)
    if first is not None:
        # In the order of the label's index, so that other executions are not read.
        query = query.select_from(labels.join(executions, _SAME))
        query = query.where(labels.c.name == first[0], labels.c.value == first[1])
        if wanted.projects is not None:
            query = query.where(labels.c.project_id.in_(sorted(wanted.projects)))
        order = (labels.c.submitted_at, labels.c.execution_id, labels.c.project_id)
        wanted = replace(wanted, labels=tuple(label for label in wanted.labels if label != first))
    if wanted.text is not None and connection.dialect.name == "sqlite" and _are_frequent(connection, wanted.text):
        # SQLite would sort all that match; enough of them are among the newest.
        query = query.where(*(func.instr(" " + _COLUMNS.words, f" {word}") > 0 for word in words_of(wanted.text)))
        wanted = replace(wanted, text=None)
    query = query.where(*_conditions(wanted, connection.dialect.name))
    if after is not None:
        query = query.where(row_of(*order) < row_of(*after))
    query = query.order_by(*(column.desc() for column in order)).limit(limit)
    options = {"compiled_cache": None} if len(wanted.labels) > _COMPILED_LABELS else {}
    return [_summary(row) for row in connection.execute(query, execution_options=options).mappings()]


def _summary(row: RowMapping) -> dict[str, Any]:
    fields = dict(row)
    fields["usage"] = {name: fields.pop(name) for name in Usage.model_fields}
    return fields


def projects_of(connection: Connection, execution: str) -> list[str]:
    """Return the projects that have an execution of this id."""
    found = connection.execute(select(_COLUMNS.project_id).where(_COLUMNS.execution_id == execution))
    return sorted(found.scalars())


def session_page(
    connection: Connection, projects: frozenset[str] | None, limit: int, after: Position | None = None
) -> list[tuple[SessionRef, datetime]]:
    """Return the newest `limit` sessions of the projects (None: of all) below `after`, with their creation."""
    order = (sessions.c.created_at, sessions.c.session_id, sessions.c.project_id)
    query = select(sessions.c.project_id, sessions.c.session_id, sessions.c.created_at)
    if projects is not None:
        query = query.where(sessions.c.project_id.in_(sorted(projects)))
    if after is not None:
        query = query.where(row_of(*order) < row_of(*after))
    rows = connection.execute(query.order_by(*(column.desc() for column in order)).limit(limit))
    return [(SessionRef(project, session), created) for project, session, created in rows]


def result_of(connection: Connection, ref: ExecutionRef) -> dict[str, Any] | None:
    """Return the fields of `page` and `result` of one execution, or None."""
    query = select(*_LISTED, _COLUMNS.result)
    query = query.where(_COLUMNS.project_id == ref.project, _COLUMNS.execution_id == ref.execution)
    row = connection.execute(query).mappings().first()
    return None if row is None else _summary(row)


def due(
    connection: Connection, still: Kept, ended_before: datetime, after: tuple[datetime, str] | None, limit: int
) -> list[tuple[ExecutionRef, datetime, dict[str, str]]]:
    """Return archived executions that are `still` to be removed from somewhere, the oldest first.

    Each with the time of its end and its labels.
    """
    place = (_COLUMNS.ended_at, _COLUMNS.execution_id)
    query = select(_COLUMNS.project_id, *place, _COLUMNS.labels).where(
        _COLUMNS[still].is_(False), _COLUMNS.ended_at < ended_before, _COLUMNS.archived
    )
    if after is not None:
        query = query.where(row_of(*place) > row_of(*after))
    rows = connection.execute(query.order_by(*place).limit(limit))
    return [(ExecutionRef(project, execution), ended, labels) for project, ended, execution, labels in rows]


def all_evicted(connection: Connection) -> bool:
    """Return whether no execution of the history is in NATS."""
    return connection.execute(select(_COLUMNS.id).where(_COLUMNS.evicted.is_(False)).limit(1)).first() is None


def all_projects(connection: Connection) -> list[str]:
    """Return every project that has an execution."""
    return list(connection.execute(select(_COLUMNS.project_id).distinct()).scalars())


def pending_before(connection: Connection, position: Position) -> int:
    """Return the number of pending executions that were submitted before."""
    before = row_of(*_ORDER) < row_of(*position)
    query = select(func.count()).where(_COLUMNS.status == State.PENDING.value, before)
    return connection.execute(query).scalar_one()


def usage(connection: Connection, wanted: Filter, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return runs, results, tokens, cost and the mean time to the first output by group, in the order of the groups.

    Open executions count what their row has.

    With the group `label` an execution counts once for each of its labels.
    """
    source: Any = executions
    columns: dict[Group, ColumnElement[str]] = {
        "project": _COLUMNS.project_id,
        "model": func.coalesce(_COLUMNS.model, ""),
        "day": _COLUMNS.day,
        "label": labels.c.name + "=" + labels.c.value,
    }
    if "label" in groups:
        source = executions.join(labels, _SAME)
    by = [columns[group].label(group) for group in groups]
    counted = {name: func.sum(_COLUMNS[name]).label(name) for name in Usage.model_fields}
    states = [
        func.sum(case((_COLUMNS.status == state.value, 1), else_=0)).label(state.value)
        for state in (State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.REJECTED)
    ]
    first = _COLUMNS.first_output_ms
    outputs = (func.avg(first).label("first_output_ms"), func.count(first).label("first_outputs"))
    query = select(*by, func.count().label("runs"), *states, *outputs, *counted.values()).select_from(source)
    query = query.where(*_conditions(wanted, connection.dialect.name)).group_by(*by).order_by(*by)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    # PostgreSQL's sums and means of bigint are decimals.
    whole = {"first_output_ms", *counted} - {"cost_usd"}
    return [{k: int(v) if k in whole and v is not None else v for k, v in row.items()} for row in rows]


def reasons(connection: Connection, wanted: Filter) -> dict[str, int]:
    """Return the number of failures by reason."""
    query = select(_COLUMNS.reason, func.count()).where(_COLUMNS.reason.is_not(None))
    query = query.where(*_conditions(wanted, connection.dialect.name)).group_by(_COLUMNS.reason)
    return {str(reason): count for reason, count in connection.execute(query)}


def spend(connection: Connection, project: str, day: str, rule: str | None) -> float:
    """Return the cost in US dollars of a project's executions of a day, or those of a rule; also of removed ones."""
    named = ((TRIGGER_LABEL, rule),) if rule is not None else ()
    wanted = Filter(frozenset({project}), labels=named, day=day)
    there = select(func.coalesce(func.sum(_COLUMNS.cost_usd), 0.0)).where(*_conditions(wanted, connection.dialect.name))
    kept = removed_costs.c
    removed = select(func.coalesce(func.sum(kept.cost_usd), 0.0)).where(kept.project_id == project, kept.day == day)
    if rule is not None:
        removed = removed.where(kept.rule == rule)
    return float(connection.execute(select(there.scalar_subquery() + removed.scalar_subquery())).scalar_one())


def count_open(connection: Connection, wanted: Filter) -> int:
    """Return the number of pending and running executions that match."""
    query = select(func.count()).where(_COLUMNS.status.in_(OPEN), *_conditions(wanted, connection.dialect.name))
    return connection.execute(query).scalar_one()


def _conditions(wanted: Filter, dialect: str) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.projects is not None:
        found.append(_COLUMNS.project_id.in_(sorted(wanted.projects)))
    if wanted.states:
        found.append(_COLUMNS.status.in_(sorted(state.value for state in wanted.states)))
    if wanted.since is not None:
        found.append(_COLUMNS.submitted_at >= wanted.since)
    if wanted.until is not None:
        found.append(_COLUMNS.submitted_at < wanted.until)
    if wanted.day is not None:
        found.append(_COLUMNS.day == wanted.day)
    if wanted.session_id is not None:
        found.append(_COLUMNS.session_id == wanted.session_id)
    if wanted.rerun_of is not None:
        found.append(_COLUMNS.rerun_of == wanted.rerun_of)
    if wanted.task_id is not None:
        found.append(_COLUMNS.task_id == wanted.task_id)
    if wanted.id_prefix:
        # `~` is above every character of an id.
        found += [_COLUMNS.execution_id >= wanted.id_prefix, _COLUMNS.execution_id < wanted.id_prefix + "~"]
    for name, value in wanted.labels:
        other = labels.alias()
        label = (other.c.project_id == _COLUMNS.project_id) & (other.c.execution_id == _COLUMNS.execution_id)
        label &= other.c.name == name
        found.append(exists().where(label if value is None else label & (other.c.value == value)))
    if wanted.text is not None:
        found.append(_has_words(wanted.text, dialect))
    return found


def _are_frequent(connection: Connection, wanted: str) -> bool:
    """Return whether more executions have these words than SQLite sorts in milliseconds."""
    if not (words := words_of(wanted)):
        return False
    found = text("SELECT rowid FROM execution_words WHERE execution_words MATCH :words LIMIT 1 OFFSET :most")
    return connection.execute(found, {"words": _fts(words), "most": FREQUENT}).first() is not None


def _fts(words: Sequence[str]) -> str:
    return " ".join(f'"{word}"*' for word in words)


def _has_words(wanted: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that a word begins with each word of `wanted`, by the text index of the dialect."""
    words = words_of(wanted)
    if not words:
        return false()
    simple: ColumnElement[str] = literal_column("'simple'")
    if dialect == "postgresql":
        query = func.to_tsquery(simple, " & ".join(f"{word}:*" for word in words))
        return func.to_tsvector(simple, _COLUMNS.words).op("@@")(query)
    match = text("SELECT rowid FROM execution_words WHERE execution_words MATCH :words")
    return _COLUMNS.id.in_(match.bindparams(words=_fts(words)).columns(executions.c.id))
