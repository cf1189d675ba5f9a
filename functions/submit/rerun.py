"""The task of a rerun: its original's, as the archive or the stream has it, with what the caller changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ocf.events import dataref, subjects
from ocf.events.archive_manifest import EVENTS
from ocf.events.base_model import REMOVED
from ocf.events.command_payloads import Execute, Submit
from ocf.events.envelope import Event, InvalidData, decode, of_line
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.gzip_ndjson import DamagedArchive, split_lines
from ocf.events.ports import Bus, ObjectStore
from ocf.events.untrusted_json import EVENT, parse_json
from ocf.functions.core.execution_store import Records
from ocf.functions.recording.line_types import NAME
from ocf.functions.settings.settings import Settings
from ocf.functions.submit.task_rules import broken_rules

_EXECUTE = "dev.ocf.task.execute.v1"
#: Bytes of one command in the archive: its data at most, as JSON in an envelope.
_LINE = replace(EVENT, bytes=2 * EVENT.bytes)
#: Members of the original's task that a rerun does not have, beside those in `_left_out`.
_NOT_CARRIED = ("execution_id", "project_id", "submitted_at", "session_id", "reply_to", "rerun", "recording")


def costs_nothing(data: Submit) -> bool:
    """Return whether a task calls no model."""
    return data.rerun is not None and not data.rerun.live


async def resolved(data: Submit, bus: Bus, store: ObjectStore, records: Records, settings: Settings) -> Submit:
    """Return the whole task of a submit; one that is no rerun is returned unchanged.

    Raises:
        InvalidData: the original cannot be run again, the submit has a field that a rerun cannot have, or the whole
            task exceeds the operator's settings.
        NotYetKnown: the original is being archived.
        Unavailable: the store does not answer.
    """
    if data.rerun is None:
        return data
    given = data.model_dump(by_alias=True, exclude_defaults=True)
    errors = [
        FieldError(field=name, message=f"{why}; leave it out")
        for name, why in (
            ("session_id", "a rerun belongs to no session"),
            ("workspace", "a rerun begins from what its original began from"),
            *((name, "a rerun reaches no network") for name in ("network", "secrets", "mcp", "result")),
        )
        if name in given
    ]
    if errors:
        raise InvalidData(errors)
    ref = ExecutionRef(data.project_id, data.rerun.of)
    record = await records.find(ref.project, ref.execution)
    await _require_recording(ref, store, record)
    original = (await _execute(ref, bus, store)).model_dump(by_alias=True, exclude_defaults=True)
    left_out = _left_out(original)
    base = {name: value for name, value in original.items() if name not in _NOT_CARRIED}
    imported = record is not None and record.imported_from is not None
    if imported:
        _require_no_clone(base)
    for name in ("api_key", "api_endpoint") if imported else () if data.rerun.live else ("api_key",):
        base.get("model_config", {}).pop(name, None)
    rerun = {**given["rerun"], "left_out": left_out}
    # Its type is that of the execute command, which carries `left_out` to the worker.
    task = Execute.model_validate({**base, **given, "rerun": rerun, "submitted_at": "1970-01-01T00:00:00Z"})
    if errors := broken_rules(task, settings):
        raise InvalidData(errors)
    return task


def _left_out(task: dict[str, Any]) -> list[str]:
    """Take out of a task what reaches the network or a forge, and its secrets; return what a rerun does not get.

    Requests to secrets' URLs and remote MCP servers are answered by the recording, so these stay, without their values.
    """
    found = [f"network.allow ({host})" for host in (task.pop("network", None) or {}).get("allow", ())]
    for secret in (task.get("secrets") or {}).values():
        secret["value"] = dict(REMOVED)
    for server in (task.get("mcp") or {}).values():
        server.pop("headers", None)
    return found + (["result"] if task.pop("result", None) else [])


def _require_no_clone(task: dict[str, Any]) -> None:
    """Refuse a stranger's task that has this installation fetch something.

    Raises:
        InvalidData: its definitions are in a git repository.
    """
    for name in ("agents", "skills", "commands"):
        found = task.get(name) or {}
        if "from" in found or any(isinstance(one, dict) and "from" in one for one in found.values()):
            text = f"its {name} are in a git repository, and a rerun of an imported execution fetches nothing"
            raise InvalidData([FieldError(field="rerun.of", message=text)])


async def _require_recording(ref: ExecutionRef, store: ObjectStore, record: Record | None) -> None:
    wrong = ""
    if record is None:
        wrong = f"no execution with this id in project {ref.project}"
    elif not record.terminal:
        wrong = f"it is {record.state.value}; only an ended execution can be run again"
    elif record.archive_expired:
        wrong = "its archive has expired, and its recording with it"
    elif not record.archived:
        raise NotYetKnown(f"execution {ref.execution} is being archived")
    elif await store.head(ref.object_key(NAME)) is None:
        wrong = "it has no recording: it made no model call, or ran with recording: off"
    if wrong:
        raise InvalidData([FieldError(field="rerun.of", message=wrong)])


async def _execute(ref: ExecutionRef, bus: Bus, store: ObjectStore) -> Execute:
    """Return the execute command of an ended execution, from the stream or from its archive."""
    message = await bus.last(subjects.COMMANDS, ref.command("execute"))
    try:
        event = decode(message.headers, message.data) if message is not None else await _archived(ref, store)
        event = await dataref.resolve(event, ref.prefix, store)
        data = Execute.model_validate(parse_json(event.data, EVENT))
    except (InvalidEvent, NotYetKnown, DamagedArchive, ValueError):
        raise InvalidData([FieldError(field="rerun.of", message="its task is gone, or cannot be read")]) from None
    if (data.project_id, data.execution_id) != (ref.project, ref.execution):
        raise InvalidData([FieldError(field="rerun.of", message="its archive has the task of another execution")])
    return data


async def _archived(ref: ExecutionRef, store: ObjectStore) -> Event:
    async for line in split_lines(store.stream(ref.object_key(EVENTS)), _LINE):
        if _EXECUTE.encode() in line and (event := of_line(line)).type == _EXECUTE:
            return event
    raise NotYetKnown("the archive has no execute command")
