"""Rows of the history from records and facts: idempotent, and a row never goes back to an earlier state."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ocf.events.command_payloads import TRIGGER_LABEL
from ocf.events.envelope import Event
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import TERMINAL, State
from ocf.events.output import Usage
from ocf.events.session_record import Session
from ocf.events.terminal_facts import duration_ms
from ocf.events.untrusted_json import KIB, shorten
from ocf.functions.database.tables import Kept, attempts, events, executions, labels, removed_costs, sessions

#: Bytes of JSON of a result in its row, and characters of it that the text index has.
_RESULT, _INDEXED = 32 * KIB, 16 * 1024
#: Bytes of JSON of one member of an event's data; larger ones are only in the archive.
_MEMBER = KIB
#: States of executions that have not ended.
OPEN = tuple(state.value for state in State if state not in TERMINAL)
_WORD = re.compile(r"[^\W_]+")
_WORD_LENGTH = 64


def save(connection: Connection, record: Record, facts: Sequence[Event] = ()) -> None:
    """Write the rows of an execution from its record, unless they are newer, and those of its facts.

    An ended execution is newer than an open one, whatever the clocks of their writers said.

    Raises:
        OverflowError: A time is out of the database's range.
    """
    key = {"project_id": record.project_id, "execution_id": record.execution_id}
    row = _clean(_execution(record))
    _upsert(connection, executions, [row], tuple(key), ordered=True)
    named = {**key, "submitted_at": record.submitted_at}
    _upsert(connection, labels, [{**named, "name": k, "value": v} for k, v in row["labels"].items()], (*key, "name"))
    made = [
        {**key, "number": n.number, "worker": n.worker, "started_at": n.started_at, "ended_at": n.ended_at}
        | {"outcome": n.ended}
        for n in record.attempts
    ]
    _upsert(connection, attempts, _clean(made), (*key, "number"), keep=("ended_at", "outcome"))
    save_events(connection, record.ref, facts)


def save_events(connection: Connection, ref: ExecutionRef, facts: Sequence[Event]) -> None:
    """Write the rows of facts; `archived` is a column of the execution."""
    key = {"project_id": ref.project, "execution_id": ref.execution}
    rows = [_clean(key | _event(fact)) for fact in facts if not fact.type.endswith(".archived.v1")]
    _upsert(connection, events, rows, (*key, "event_id"))


def mark(connection: Connection, ref: ExecutionRef, gone: Sequence[Kept]) -> None:
    """Note what is gone of an execution."""
    columns = executions.c
    where = (columns.project_id == ref.project, columns.execution_id == ref.execution)
    connection.execute(update(executions).where(*where).values(dict.fromkeys(gone, True)))


def exists(connection: Connection, ref: ExecutionRef) -> bool:
    """Return whether there is a row of the execution."""
    columns = executions.c
    query = select(columns.id).where(columns.project_id == ref.project, columns.execution_id == ref.execution)
    return connection.execute(query).first() is not None


def remove(connection: Connection, ref: ExecutionRef) -> None:
    """Remove every row of an execution. Its cost stays in the sum of its day, without its id, for the budgets."""
    _keep_cost(connection, ref)
    for table in (events, attempts, labels, executions):
        columns = table.c
        connection.execute(
            delete(table).where(columns.project_id == ref.project, columns.execution_id == ref.execution)
        )


def _keep_cost(connection: Connection, ref: ExecutionRef) -> None:
    columns, label = executions.c, labels.c
    rule = (
        select(label.value)
        .where(label.project_id == ref.project, label.execution_id == ref.execution, label.name == TRIGGER_LABEL)
        .scalar_subquery()
    )
    cost = select(columns.project_id, columns.day, rule, columns.cost_usd).where(
        columns.project_id == ref.project, columns.execution_id == ref.execution, columns.cost_usd > 0
    )
    kept = removed_costs.c
    connection.execute(insert(removed_costs).from_select(["project_id", "day", "rule", "cost_usd"], cost))
    # Budgets are of a day: only the newest one is kept.
    other = removed_costs.alias().c
    newest = select(func.max(other.day)).where(other.project_id == ref.project).scalar_subquery()
    connection.execute(delete(removed_costs).where(kept.project_id == ref.project, kept.day < newest))


def save_session(connection: Connection, session: Session) -> None:
    """Write the row of a session, unless there is one."""
    key = {"project_id": session.project_id, "session_id": session.session_id}
    row = _clean({**key, "created_at": session.created_at, "labels": session.labels})
    _upsert(connection, sessions, [row], tuple(key))


def remove_session(connection: Connection, ref: SessionRef) -> None:
    """Remove the row of a session."""
    columns = sessions.c
    where = (columns.project_id == ref.project, columns.session_id == ref.session)
    connection.execute(delete(sessions).where(*where))


def words_of(text: str) -> list[str]:
    """Split a text into the words that are indexed and searched, in both dialects."""
    return [word[:_WORD_LENGTH] for word in _WORD.findall(text.casefold())]


def _upsert(
    connection: Connection,
    table: Table,
    rows: list[dict[str, Any]],
    key: Sequence[str],
    *,
    ordered: bool = False,
    keep: Sequence[str] = (),
) -> None:
    """Insert rows. Of existing ones, update all columns if `ordered`, unless they are newer; else those of `keep`."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    new = statement.excluded
    if ordered:
        changed: dict[str, Any] = {name: new[name] for name in rows[0] if name not in key}
        changed["archived"] = table.c.archived | new.archived  # once archived, always
        was_open, ends = table.c.status.in_(OPEN), new.status.not_in(OPEN)
        later = was_open & ends | (was_open | ends) & (table.c.updated_at <= new.updated_at)
        statement = statement.on_conflict_do_update(index_elements=list(key), set_=changed, where=later)
    elif keep:
        # An ended attempt does not change; an open one may end.
        changed = {name: new[name] for name in keep}
        statement = statement.on_conflict_do_update(
            index_elements=list(key), set_=changed, where=table.c[keep[0]].is_(None)
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=list(key))
    connection.execute(statement, rows)


def _execution(record: Record) -> dict[str, Any]:
    ended = record.ended_at if record.started_at else None
    result = shorten(record.result, _RESULT)
    # The costs of an imported execution are those of the project that it comes from.
    usage = record.usage if record.imported_from is None else Usage()
    return {
        "project_id": record.project_id,
        "execution_id": record.execution_id,
        "task_id": record.task_id,
        "session_id": record.session_id,
        "status": record.state.value,
        "reason": record.reason.value if record.reason else None,
        "message": record.message,
        "title": record.title,
        "labels": record.labels,
        "model": record.model,
        "submitted_at": record.submitted_at,
        # Of an ended execution every source must give the same row, also its archive.
        "updated_at": record.ended_at or record.updated_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "day": record.submitted_at.astimezone(UTC).strftime("%Y-%m-%d"),
        "duration_ms": duration_ms(record, ended, record.waited_ms) if ended is not None else None,
        "first_output_ms": record.first_output_ms,
        "attempt": record.attempts[-1].number if record.attempts else 0,
        "progress": record.progress,
        "cancel_requested": record.cancel_requested,
        **{name: getattr(usage, name) for name in Usage.model_fields},
        "files_changed": record.diff.files,
        "archived": record.archived,
        "rerun_of": record.rerun_of,
        "result": result,
        "words": " ".join(words_of(f"{record.title} {result[:_INDEXED]}")),
    }


def _event(fact: Event) -> dict[str, Any]:
    data = json.loads(fact.data)
    members = {name: value for name, value in data.items() if len(json.dumps(value)) <= _MEMBER}
    return {"event_id": fact.id, "type": fact.type, "time": fact.time, "source": fact.source, "data": members}


def _clean(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the value without NUL and lone surrogates, which PostgreSQL refuses in texts."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        case dict():
            return {_clean(name): _clean(one) for name, one in value.items()}
        case list():
            return [_clean(one) for one in value]
    return value
