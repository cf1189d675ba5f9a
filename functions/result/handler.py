"""result: push the result of an ended execution again, and comment on the issue or pull request that began it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import structlog

from ocf.events import dataref
from ocf.events.command_payloads import CommentEnd, Execute, PushResult
from ocf.events.envelope import Event, parse
from ocf.events.errors import Drop, InvalidEvent
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Published
from ocf.events.lifecycle import State
from ocf.events.ports import Bus, ObjectStore
from ocf.events.task_forge_fields import ReplyTo
from ocf.events.untrusted_json import KIB, shorten
from ocf.functions import workspace
from ocf.functions.core.command_parsing import command, ids_of, stored_command
from ocf.functions.core.execution_store import Records
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.forges.http import forge_client
from ocf.functions.publishing.archived_result import publish_archived
from ocf.functions.publishing.branch import ResultRejected
from ocf.functions.publishing.publisher import ResultPublisher

log = structlog.get_logger()

_RESULT_BYTES = 30 * KIB
_WORDS = {
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "was cancelled",
    State.TIMED_OUT: "reached its time limit",
    State.REJECTED: "was rejected",
}


async def result(
    event: Event,
    *,
    bus: Bus,
    store: ObjectStore,
    records: Records,
    credentials: ForgeCredentials,
    results: ResultPublisher,
) -> None:
    """Handle `dev.ocf.task.result.v1` and `dev.ocf.task.comment.v1`. Both may be repeated.

    Raises:
        Drop: there is nothing to do.
        ForgeUnavailable: the forge does not answer; the event is redelivered.
        DeadLetter: the comment or the status is refused, or the task is no longer stored.
    """
    ref = ExecutionRef(*ids_of(event))
    record = await records.find(ref.project, ref.execution)
    if record is None:
        raise Drop(f"execution {ref.execution} was deleted")
    if not record.terminal:
        raise Drop(f"execution {ref.execution} has not ended")
    if event.type == "dev.ocf.task.comment.v1":
        command(event, CommentEnd)
        to = record.reply_to if record.comment_url is None else None
        if to is None and record.status_open is None:
            raise Drop("there is nothing to say on a forge")
        if to is not None:
            await _comment(to, record, records, credentials, results)
        if record.status_open is not None:
            await results.set_status(await _task(ref, bus, store), record.state)
        return
    command(event, PushResult)
    if record.publishing is None:
        await records.publish_outbox(record)  # an earlier delivery may have ended before it
        raise Drop("there is no refused result to push")
    task = await _task(ref, bus, store)
    folder = Path(tempfile.mkdtemp(prefix="ocf-result-"))
    try:
        published = await publish_archived(task, record, results, folder)
    finally:
        await workspace.discard_tree(folder)
    if isinstance(published, ResultRejected):
        refused = {"result_message": str(published)}
        await records.change(ref.project, ref.execution, lambda newest: newest.model_copy(update=refused))
        raise Drop(f"refused again: {published}")
    fields = {**published.fields(), "publishing": None}
    fact = Published(execution_id=ref.execution, project_id=ref.project, **published.fields())

    def done(newest: Record) -> Record:
        return records.with_fact(newest.model_copy(update=fields), "dev.ocf.task.published.v1", fact, event)

    await records.publish_outbox(await records.change(ref.project, ref.execution, done))


async def _task(ref: ExecutionRef, bus: Bus, store: ObjectStore) -> Execute:
    event = await dataref.resolve(await stored_command(bus, ref.command("execute")), str(ref), store)
    task = parse(event)
    if not isinstance(task, Execute):
        raise InvalidEvent(f"type: {event.type} on the subject of an execute command")
    return task


async def _comment(
    to: ReplyTo, record: Record, records: Records, credentials: ForgeCredentials, results: ResultPublisher
) -> None:
    # The marker finds a comment whose answer was lost.
    marker = f"<!-- ocf:{record.project_id}/{record.execution_id} -->"
    async with forge_client() as client:
        access = await credentials.access(client, record.project_id, to.credential, repository=to.repository)
        forge = access.connect(client)
        made = await forge.comments(to.repository, to.kind, to.number, record.submitted_at)
        url = next((url for text, url in made if marker in text), None)
        if url is None:
            body = f"{_text(record, results.link(record.project_id, record.execution_id))}\n\n{marker}"
            url = await forge.comment(to.repository, to.kind, to.number, body)
    known = {"comment_url": url}
    await records.change(record.project_id, record.execution_id, lambda newest: newest.model_copy(update=known))
    log.info(
        "commented",
        action="result.commented",
        url=url,
        **record.ref.log_fields,
    )


def _text(record: Record, link: str) -> str:
    """Return the comment: what became of the execution, its last message, links, cost and time."""
    head = f"**The agent's execution {_WORDS.get(record.state, record.state.value)}.**"
    if record.state is not State.COMPLETED and record.message:
        head += f" {record.reason or 'Reason'}: {_line(record.message)}"
    facts = []
    if record.pull_request is not None:
        facts.append(f"Pull request: {record.pull_request.url}")
    elif record.result_message:
        facts.append(f"Result: {_line(record.result_message)}")
    if link:
        facts.append(f"Console: {link}")
    usage = record.usage
    spent = f"{usage.total_tokens} tokens, ${usage.cost_usd:.2f}"
    if record.started_at is not None and record.ended_at is not None:
        spent += f", {(record.ended_at - record.started_at).total_seconds():.0f} s"
    facts.append(spent)
    # The text is the agent's: a mention in it must notify nobody, and it must not forge another execution's marker.
    words = shorten(record.result, _RESULT_BYTES).replace("@", "@\u200b").replace("<!--", "<\u200b!--")
    return "\n\n".join(filter(None, (head, words, "\n".join(f"- {fact}" for fact in facts))))


def _line(text: str) -> str:
    return shorten(" ".join(text.split()), 500).replace("@", "@\u200b").replace("<!--", "<\u200b!--")
