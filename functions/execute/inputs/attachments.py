"""Attachments of a task as file parts of its first prompt."""

from __future__ import annotations

import base64
from pathlib import Path

from ocf.events.command_payloads import Execute
from ocf.events.errors import NotYetKnown
from ocf.events.execution_ref import ExecutionRef
from ocf.events.optional_task_fields import MAX_ATTACHMENT_BYTES, Attachment, check_content
from ocf.events.ports import ObjectStore
from ocf.functions import workspace
from ocf.functions.execute.agent.opencode_api import FilePart
from ocf.functions.workspace.threads import in_thread

_ARCHIVE = "workspace.tar.zst"


async def file_parts(task: Execute, store: ObjectStore, folder: Path, limits: workspace.Limits) -> tuple[FilePart, ...]:
    """Return the attachments of a task, in order.

    Args:
        task: the task.
        store: has the workspaces of earlier executions.
        folder: private to the run.
        limits: of a stored workspace.

    Raises:
        InvalidWorkspace: the stored workspace or the file in it is missing, too large, or not what `media_type` says.
        Unavailable: the store does not answer.
    """
    parts, left = [], MAX_ATTACHMENT_BYTES
    for number, attachment in enumerate(task.attachments):
        try:
            content = await _content(attachment, task.project_id, store, folder, limits, left)
        except workspace.InvalidWorkspace as error:
            raise workspace.InvalidWorkspace(f"attachments.{number}: {error}") from None
        left -= len(content)
        # OpenCode shows the model the text of `text/plain` only; it would send any other text type as a file.
        media_type = "text/plain" if attachment.modality == "text" else attachment.media_type
        data = base64.b64encode(content).decode()
        parts.append(FilePart(attachment.name, media_type, f"data:{media_type};base64,{data}"))
    return tuple(parts)


async def _content(
    attachment: Attachment, project: str, store: ObjectStore, folder: Path, limits: workspace.Limits, left: int
) -> bytes:
    if attachment.data is not None:
        return attachment.content()
    source, path = attachment.execution_id or "", attachment.path or ""
    archive = folder / "attachments" / source / _ARCHIVE
    if not archive.is_file():
        archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with archive.open("wb") as file:
                async for piece in store.stream(f"{ExecutionRef(project, source).prefix}/{_ARCHIVE}"):
                    file.write(piece)
        except NotYetKnown:
            archive.unlink()
            raise workspace.InvalidWorkspace(f"execution {source} has no stored workspace in this project") from None
    content = await in_thread(lambda stop: workspace.read_member(archive, path, left, limits, stop))
    try:
        check_content(attachment.media_type, content)
    except ValueError as error:
        raise workspace.InvalidWorkspace(f"{path!r}: {error}") from None
    return content
