"""The result of an execution whose worker is gone: published from the archive, and the end that follows."""

from __future__ import annotations

from pathlib import Path

from ocf.events.command_payloads import Execute
from ocf.events.execution_record import Record
from ocf.events.fact_payloads import Completed, Failed, Outcome
from ocf.events.lifecycle import Step
from ocf.events.terminal_facts import PublishedResult
from ocf.functions.publishing.branch import ResultRejected
from ocf.functions.publishing.publisher import ResultPublisher, Work


async def publish_archived(
    task: Execute, record: Record, results: ResultPublisher, folder: Path
) -> PublishedResult | ResultRejected:
    """Publish the completed work of a record; return what became of it.

    Args:
        task: the task.
        record: its record, with `publishing`.
        results: publishes.
        folder: scratch space.
    """
    source = await results.source(task)
    if source is None or record.base_commit is None or record.publishing is None:
        return ResultRejected("the session with the repository was destroyed")
    try:
        return await results.publish(task, record.publishing.result, Work(source, record.base_commit, folder))
    except ResultRejected as error:
        return error


def ended(work: Completed, published: PublishedResult | ResultRejected) -> tuple[Step, Outcome]:
    """Return the end of an execution whose work was published, or refused."""
    if isinstance(published, PublishedResult):
        return Step.COMPLETE, work.model_copy(update=published.fields())
    why = {"reason": published.reason, "message": str(published), "result_message": str(published)}
    return Step.FAIL, Failed.model_validate({**dict(work), **why})
