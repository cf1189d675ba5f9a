"""Rotation of NATS credentials on a real server with its resolver in memory, under connections that are in use."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import nats.errors
import pytest

from ocf.events import subjects
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.functions.runtime.nats_auth import BACKUP, FUNCTIONS, Credentials, Trust, mint_user, public_key
from ocf.functions.runtime.setup import apply
from ocf.stack.keys import write_private
from tests.integration.test_backup_nats import backed_up, restored
from tests.integration.test_jwt_server import browser, client, viewer
from tests.support.nats import NatsServer
from tests.support.stack import until

KEPT = "ocf.evt.default.kept"


def functions(trust: Trust) -> Credentials:
    return mint_user(trust, FUNCTIONS, int(time.time()))


def restarted(server: NatsServer) -> None:
    server.kill()
    server.start()


#: How a server gets a changed configuration: a new pod, or the reloader of the Helm chart.
WAYS = pytest.mark.parametrize("bring", [restarted, NatsServer.reload], ids=["restart", "reload"])


async def accepted(server: NatsServer, creds: Path) -> bool:
    """Whether the server lets these credentials in."""
    try:
        async with client(server.url, creds) as (nc, _):
            await nc.flush(2)
    except (nats.errors.Error, OSError):
        return False
    return True


async def serves(bus: NatsBus) -> bool:
    """Whether a connection is up and JetStream answers it."""
    await bus.ready()
    return True


@WAYS
async def test_new_signing_keys_take_over_in_the_same_account(
    bring: Callable[[NatsServer], None], own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """First both are accepted, then the new ones only. A connection that lasts through it comes back by itself with the
    file's new content, the streams are there as before, and what the earlier keys signed is refused. Done twice."""
    server, mounted = own_nats_server, tmp_path / "mounted.creds"
    write_private(mounted, functions(server.trust).file())
    bus = await connect(server.url, creds=mounted, name="worker")
    try:
        await bus.publish(KEPT, b"kept", {})
        for _ in range(2):
            earlier, old_viewer = server.trust, viewer(server, str(uuid.uuid4()))
            old = write_private(tmp_path / f"old-{uuid.uuid4()}.creds", functions(earlier).file())
            new_trust = earlier.rotated()
            assert new_trust.rotated() == new_trust  # a step that is repeated changes nothing
            server.trust_in(new_trust)
            bring(server)
            new = write_private(tmp_path / f"new-{uuid.uuid4()}.creds", functions(new_trust).file())
            await until(lambda new=new: accepted(server, new), what="the new keys are accepted")
            assert await accepted(server, old)

            write_private(mounted, functions(new_trust).file())
            server.trust_in(new_trust.finished())
            bring(server)

            async def refused(old: Path = old) -> bool:
                return not await accepted(server, old)

            await until(refused, what="the old keys are refused")
            await until(lambda: serves(bus), what="the worker's connection is back")
            assert not bus.nc.is_closed
            async with browser(server) as page:
                assert b"Authorization Violation" in await page.enter(old_viewer)
            async with browser(server) as page:
                assert b"PONG" in await page.enter(viewer(server, str(uuid.uuid4())))
            assert [message.data async for message in bus.history(subjects.EVENTS, KEPT)] == [b"kept"]
    finally:
        await bus.close()


@WAYS
async def test_a_revoked_user_is_out_and_all_others_stay(
    bring: Callable[[NatsServer], None], own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """Of one leaked file: its connections end, it does not come back, and others of the same key are as before."""
    server = own_nats_server
    leaked = write_private(tmp_path / "leaked.creds", (credentials := functions(server.trust)).file())
    bus = await connect(server.url, creds=server.creds, name="worker")
    try:
        async with client(server.url, leaked) as (thief, _):
            await thief.flush(2)
            server.trust_in(server.trust.without(_user_of(credentials), int(time.time())))
            bring(server)

            async def out() -> bool:
                return thief.is_closed and not await accepted(server, leaked)

            await until(out, what="the revoked user is out")
        await until(lambda: serves(bus), what="the others are in")
        assert await accepted(server, server.backend_creds)
    finally:
        await bus.close()


def _user_of(credentials: Credentials) -> str:
    return public_key(credentials.seed)


async def test_a_compromised_account_is_left_with_everything_that_it_held(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """Backup, a new account in an empty store, restore: the messages are there under their numbers, and the old
    account's credentials are refused. On the old store the new account would find nothing."""
    server = own_nats_server
    old = write_private(tmp_path / "old.creds", functions(server.trust).file())
    async with client(server.url, server.creds_for(BACKUP)) as (operator, _):
        for number in range(20):
            await operator.jetstream().publish(KEPT, str(number).encode())
        kept = {
            name: await backed_up(operator, name)
            for name in [info.config.name or "" for info in await operator.jetstream().streams_info()]
        }
    assert subjects.EVENTS in kept
    server.kill()
    server.trust_in(Trust.generate())
    shutil.rmtree(server.directory / "store")
    server.start()
    async with client(server.url, server.creds_for(BACKUP)) as (operator, _):
        for name, (described, content) in kept.items():
            assert "error" not in await restored(operator, name, described, content)
    mine = write_private(tmp_path / "new.creds", functions(server.trust).file())
    bus = await connect(server.url, creds=mine, name="worker")
    try:
        await apply(bus)  # what setup does next changes nothing of it
        found = [(message.sequence, message.data) async for message in bus.history(subjects.EVENTS, KEPT)]
        assert found == [(number + 1, str(number).encode()) for number in range(20)]
    finally:
        await bus.close()
    assert not await accepted(server, old)


async def test_a_new_account_on_the_old_store_is_no_rotation(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """What the page told until release 0.2: the server does not know its store's account, and nobody finds a stream."""
    server = own_nats_server
    server.kill()
    server.trust_in(Trust.generate())
    server.start()

    async def complains() -> bool:
        return "Account fetch failed: account missing" in (server.directory / "nats.log").read_text()

    await until(complains, what="it complains")
    mine = write_private(tmp_path / "new.creds", functions(server.trust).file())
    async with client(server.url, mine) as (nc, _):
        assert await nc.jetstream().streams_info() == []
