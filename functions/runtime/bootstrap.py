"""The composition root: the only place where real dependencies are built.

Tests replace `Dependencies` whole. Nothing else in `functions/` connects to anything.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.events.sealing import Keyring
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.publish_rejection import Rejections
from ocf.functions.core.session_store import Sessions
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.runtime.dry_run import DrySessions, DryStore
from ocf.functions.settings.settings import Settings, comma_list

if TYPE_CHECKING:
    from ocf.functions.database.store import History
    from ocf.functions.publishing.publisher import ResultPublisher
    from ocf.functions.rules.rulebook import RuleBook


@dataclass(frozen=True)
class Dependencies:
    """Dependencies of the functions. What few functions need is imported when it is asked for: a start costs time."""

    settings: Settings
    clock: Clock
    bus: Bus
    executions: Bucket
    sessions: Bucket
    triggers: Bucket
    store: ObjectStore
    records: Records
    keyring: Keyring | None
    credentials: ForgeCredentials
    worker: str
    isolation: Isolation
    #: Opens the history; kept apart, as most functions never need the database's libraries.
    open_history: Callable[[], History]

    @property
    def history(self) -> History:
        """The history of all executions, not connected before its first call."""
        return self.open_history()

    @functools.cached_property
    def rulebook(self) -> RuleBook:
        """The rules of the projects, read once and kept up to date."""
        from ocf.functions.rules.rulebook import RuleBook

        return RuleBook(self.triggers)

    @property
    def session_records(self) -> Sessions:
        """The records of the sessions."""
        return Sessions(self.sessions, self.clock)

    @property
    def results(self) -> ResultPublisher:
        """The publisher of results."""
        from ocf.functions.publishing.publisher import ResultPublisher

        return ResultPublisher(
            credentials=self.credentials,
            keyring=self.keyring,
            records=self.records,
            sessions=self.session_records,
            store=self.store,
            settings=self.settings,
            clock=self.clock,
        )

    @property
    def rejections(self) -> Rejections:
        """The publisher of rejections."""
        return Rejections(self.bus, self.records, self.clock, self.settings.task_timeout)


@asynccontextmanager
async def build(
    settings: Settings, name: str, note: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Dependencies]:
    """Connect the dependencies of the process `name`, however long that takes; close them at the end.

    Args:
        settings: The process's environment.
        name: Name of the connection.
        note: Gets the reason of each failed try to connect.
    """
    keyring = None
    if settings.encryption_key is not None:
        retired = settings.encryption_keys_retired
        keyring = Keyring(settings.encryption_key.get_secret_value(), comma_list(retired))
    if settings.dry_run:
        async with _dry(settings, name, keyring) as deps:
            yield deps
        return
    store = S3Store(s3_config(settings))
    try:
        async with connected(settings, name, note) as bus:
            names = (
                *(subjects.EXECUTIONS_BUCKET, subjects.OPEN_BUCKET, subjects.SESSIONS_BUCKET),
                *(subjects.TRIGGERS_BUCKET, subjects.CREDENTIALS_BUCKET),
            )
            buckets = tuple(NatsBucket(bus, bucket) for bucket in names)
            with _history(settings) as opened:
                yield _dependencies(settings, name, keyring, SystemClock(), bus, buckets, store, opened)
    finally:
        store.close()


@asynccontextmanager
async def connected(
    settings: Settings, name: str, note: Callable[[str], None] = lambda _: None
) -> AsyncIterator[NatsBus]:
    """Connect the process `name` to NATS, however long that takes; close the connection at the end.

    `note` gets the reason of each failed try to connect.
    """
    bus: NatsBus = await connect(settings.nats_url, creds=settings.nats_creds, name=name, note=note)
    try:
        yield bus
    finally:
        await bus.close()


def _dependencies(
    settings: Settings,
    name: str,
    keyring: Keyring | None,
    clock: Clock,
    bus: Bus,
    buckets: tuple[Bucket, ...],
    store: ObjectStore,
    open_history: Callable[[], History],
) -> Dependencies:
    executions, open_keys, sessions, triggers, credentials = buckets
    return Dependencies(
        settings=settings,
        clock=clock,
        bus=bus,
        executions=executions,
        sessions=sessions,
        triggers=triggers,
        store=store,
        records=Records(executions, bus, clock, source=f"/ocf/{name}", store=store, open_keys=open_keys),
        keyring=keyring,
        credentials=ForgeCredentials(credentials, clock, keyring),
        worker=settings.worker_id or f"{socket.gethostname()}-{os.getpid()}",
        isolation=Isolation(clock, bus, store),
        open_history=open_history,
    )


@contextmanager
def _history(settings: Settings) -> Iterator[Callable[[], History]]:
    """Yield a function that opens the history at its first call; close it at the end."""
    with ExitStack() as stack:

        @functools.cache
        def opened() -> History:
            from ocf.functions.database.store import History

            return stack.enter_context(closing(History.at(settings.history_url())))

        yield opened


@asynccontextmanager
async def _dry(settings: Settings, name: str, keyring: Keyring | None) -> AsyncIterator[Dependencies]:
    """Yield in-memory dependencies (`DRY_RUN=1`). S3, if configured, is read and never written."""
    clock = SystemClock()
    real_store = S3Store(s3_config(settings)) if settings.s3_endpoint_url else None
    bus, store = MemoryBus(clock), DryStore(real_store)
    executions, open_keys, triggers, credentials = (MemoryBucket(clock) for _ in range(4))
    buckets = (executions, open_keys, DrySessions(clock), triggers, credentials)
    try:
        with _history(settings) as opened:
            yield _dependencies(settings, name, keyring, clock, bus, buckets, store, opened)
    finally:
        if real_store is not None:
            real_store.close()


def s3_config(settings: Settings) -> S3Config:
    """Return the configuration of the archive's bucket."""
    secret = settings.aws_secret_access_key
    return S3Config(
        bucket=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        access_key=settings.aws_access_key_id,
        secret_key=secret.get_secret_value() if secret else None,
        region=settings.aws_region,
    )
