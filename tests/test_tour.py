"""A tour of the whole system in one test. Read it first, and run it: `.venv/bin/pytest tests/test_tour.py`.

`ocf up` starts NATS, S3, the functions and the dispatcher. All a backend needs is `ocf.events.client`: it publishes
CloudEvents and reads what comes back. A scripted agent plays OpenCode, so that it takes seconds.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from ocf.events.adapters.s3 import S3Store
from ocf.events.client import connect
from ocf.events.output import ChunkType
from tests.support.stack import running_stack, until


async def test_tour(tmp_path: Path) -> None:
    """A task is submitted, watched as it runs, ends with a result and a diff, is archived, and leaves no trace."""
    with running_stack(tmp_path) as stack:  # `answer` is the line that `ocf up --json` prints
        store = S3Store(stack.s3)
        async with connect(stack.answer["nats"], creds=stack.answer["nats_creds"], store=store) as client:
            # Submit: one CloudEvent, `dev.ocf.task.submit.v1`, on the subject `ocf.cmd.submit.default.<execution>`.
            execution = await client.submit(prompt="Write hello.txt", workspace={"source": "empty"})

            # Watch: every chunk of output as it is said, in order, none missing; ends when the execution has ended.
            chunks = [chunk async for chunk in client.watch(execution)]
            assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
            spoken = "".join(chunk.data for chunk in chunks if chunk.type is ChunkType.TEXT)
            assert spoken == "Done: hello.txt is written."

            # The result: one record, and one terminal event, ever.
            record = await client.status(execution)
            assert (record.state, record.result, record.last_sequence) == ("completed", spoken, len(chunks))
            assert (record.diff.files, record.diff.additions, record.diff.deletions) == (1, 1, 0)

            # The archive: what was said and done, the patch, the workspace; the manifest comes last and vouches for it.
            async def said() -> list[str]:
                return [event.type.removeprefix("dev.ocf.task.") for event in await client.events(execution)]

            async def is_said(what: str) -> bool:
                return what in await said()

            await until(lambda: is_said("archived.v1"))
            names = [info.key.rsplit("/", 1)[-1] async for info in store.list(f"default/{execution}/")]
            assert sorted(names) == [
                "conversation.json", "events.ndjson", "input.json", "manifest.json", "output.ndjson.gz",
                "workspace.patch", "workspace.tar.zst",
            ]  # fmt: skip
            output = gzip.decompress(await store.get(f"default/{execution}/output.ndjson.gz")).splitlines()
            assert [json.loads(line)["seq"] for line in output] == [chunk.seq for chunk in chunks]
            assert b"\n+hello\n" in await store.get(f"default/{execution}/workspace.patch")
            assert set(await said()) == {
                "submit.v1", "accepted.v1", "execute.v1", "started.v1", "completed.v1", "archived.v1",
            }  # fmt: skip

            # Delete: afterwards nothing is left but the fact that it was cleaned up.
            await client.delete(execution)
            await until(lambda: is_said("cleaned.v1"))
            assert [record.execution_id for record in await client.list()] == []
            assert [info async for info in store.list(f"default/{execution}/")] == []
        store.close()
