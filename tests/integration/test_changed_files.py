"""Files that an agent changes without a tool that reports them."""

from __future__ import annotations

from ocf.events.output import ChunkType
from tests.support.stack import Project


async def test_file_made_by_shell_command_is_named_in_output(project: Project) -> None:
    """It is named once, like a file that a tool has reported, and before the chunk that states the end."""
    execution = await project.submit(
        [{"run": "echo x > made.txt"}, {"text": "made"}, {"write": {"path": "told.txt", "content": "y\n"}}]
    )
    await project.ended(execution, timeout=60)
    chunks = await project.chunks(execution)
    named = [(chunk.detail or {}).get("path") for chunk in chunks if chunk.type is ChunkType.FILE_CHANGE]
    assert sorted(map(str, named)) == ["made.txt", "told.txt"]
    assert (chunks[-1].detail or {}).get("state") == "completed"
