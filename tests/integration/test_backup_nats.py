"""Backup and restore of a stream, as any NATS client does it, with the credentials that are made for that."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from nats.aio.client import Client as NatsClient

from ocf.functions.runtime.nats_auth import BACKUP, FUNCTIONS, Role
from tests.integration.test_jwt_server import client, refused
from tests.support.nats import NatsServer

STREAM = "KV_ocf_sessions"


async def asked(nc: NatsClient, subject: str, command: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer of the JetStream API."""
    answer = await nc.request(subject, json.dumps(command or {}).encode(), timeout=5)
    said: dict[str, Any] = json.loads(answer.data)
    assert "error" not in said, said
    return said


async def backed_up(nc: NatsClient, stream: str) -> tuple[dict[str, Any], list[bytes]]:
    """What describes it, and its pieces; what asks for it is acknowledged, or the server stops."""
    inbox = nc.new_inbox()
    pieces = await nc.subscribe(inbox)
    told = await asked(nc, f"$JS.API.STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "chunk_size": 1024})
    content = []
    while (piece := await pieces.next_msg(timeout=5)).data:
        content.append(piece.data)
        if piece.reply:
            await nc.publish(piece.reply, b"")
    await pieces.unsubscribe()
    return {"config": told["config"], "state": told["state"]}, content


async def restored(nc: NatsClient, stream: str, described: dict[str, Any], content: list[bytes]) -> dict[str, Any]:
    """Give it back piece by piece; the empty one ends it."""
    told = await asked(nc, f"$JS.API.STREAM.RESTORE.{stream}", described)
    for piece in content:
        await nc.request(told["deliver_subject"], piece, timeout=5)
    return json.loads((await nc.request(told["deliver_subject"], b"", timeout=5)).data)  # type: ignore[no-any-return]


def creds(server: NatsServer, role: Role) -> Path:
    return server.creds_for(role)


async def test_a_stream_is_backed_up_and_restored_into_an_empty_server(nats_server: NatsServer) -> None:
    """Every message is back under its sequence. The functions' own credentials would not do."""
    keys = [f"$KV.ocf_sessions.backup.{uuid.uuid4()}" for _ in range(50)]
    async with client(nats_server.url, creds(nats_server, BACKUP)) as (operator, _):
        for key in keys:
            await operator.jetstream().publish(key, key.encode() * 50)
        described, content = await backed_up(operator, STREAM)
        assert len(content) > 1
        before = await asked(
            operator, f"$JS.API.STREAM.INFO.{STREAM}", {"subjects_filter": "$KV.ocf_sessions.backup.*"}
        )

        async with client(nats_server.url, creds(nats_server, FUNCTIONS)) as (functions, no):
            assert await refused(lambda: functions.publish(f"$JS.SNAPSHOT.RESTORE.{STREAM}.x", b""), no)

        await asked(operator, f"$JS.API.STREAM.DELETE.{STREAM}")
        try:
            said = await restored(operator, STREAM, described, content)
        finally:
            await asked(operator, f"$JS.API.STREAM.INFO.{STREAM}")
        assert "error" not in said, said
        after = await asked(operator, f"$JS.API.STREAM.INFO.{STREAM}", {"subjects_filter": "$KV.ocf_sessions.backup.*"})
        assert set(after["state"]["subjects"]) == set(before["state"]["subjects"]) == set(keys)
        assert after["state"]["last_seq"] == before["state"]["last_seq"]
        last = await operator.jetstream().get_last_msg(STREAM, keys[-1])
        assert last.data == keys[-1].encode() * 50
        await asked(operator, f"$JS.API.STREAM.PURGE.{STREAM}", {"filter": "$KV.ocf_sessions.backup.*"})
