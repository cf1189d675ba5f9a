"""JetStream adapter of the bus. Only this package imports nats-py."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import nats
import nats.errors
import structlog
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from ocf.events.adapters.nats.inbox_prefix import INBOX, inbox_of
from ocf.events.adapters.nats.writer import WRONG_LAST_SEQUENCE, NatsWriter, Writers
from ocf.events.errors import Conflict, TooLarge, Unavailable
from ocf.events.ports import Backlog, ConsumerSpec, ConsumerState, Delivery, Inbox, Message, message_size
from ocf.events.untrusted_json import MESSAGE_BYTES, MIB

log = structlog.get_logger()

_MESSAGE_TOO_LARGE = 10054
_NO_SUCH_MESSAGE = (10037, 10043)
#: A consumer of that name exists with another start, which an update cannot change.
_OTHER_CONFIG = 10012
#: The server ends the login of a connection (nats-server, `errors.go`).
_LOGIN_ENDED = ("authorization violation", "user authentication revoked", "user authentication expired")
#: Seconds until the kernel closes a connection with unacknowledged data (tcp(7), TCP_USER_TIMEOUT). Without this limit
#: the kernel could deliver messages of a worker minutes later, after that worker has lost its lease.
UNACKED = 3.0
_BATCH = 256
#: Bytes per batch: many readers of large messages must fit in memory, and nats-py drops messages over its own limit.
_BATCH_BYTES = 8 * MIB
_TIMEOUT = 5.0


async def connect(
    url: str, *, creds: Path | None = None, name: str = "ocf", note: Callable[[str], None] = lambda _: None
) -> NatsBus:
    """Connect to NATS, however long that takes; reconnect without limit after a loss.

    Args:
        url: Comma-separated URLs of the servers.
        creds: Credentials file, which is read at each connection: it may change.
        name: Name of the connection, for the server's monitoring.
        note: Gets the reason of each failed try, for display.

    Raises:
        Unavailable: `url` or `creds` cannot be used.
    """
    bus = NatsBus(_Client(), note)
    try:
        await bus.nc.connect(
            servers=[part.strip() for part in url.split(",")],
            user_credentials=str(creds) if creds else None,
            inbox_prefix=inbox_of(creds) if creds else INBOX,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # fractions work; the annotation is too narrow
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            allow_reconnect=True,
            error_cb=bus.on_error,
            disconnected_cb=bus.on_disconnect,
            reconnected_cb=bus.on_reconnect,
        )
    except (OSError, ValueError, nats.errors.Error, TimeoutError) as error:
        raise Unavailable(f"NATS at {url}: {error or type(error).__name__}") from None
    bus.start()
    return bus


class _Client(NatsClient):
    """nats-py's client, which survives the end of its login."""

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect when the server ends the login; nats-py would close the connection for ever.

        The credentials file may have changed meanwhile: that is how credentials are rotated.
        """
        if any(text in err_msg.lower() for text in _LOGIN_ENDED):
            await self._error_cb(nats.errors.Error(f"nats: {err_msg}"))
            await self._process_op_err(nats.errors.AuthorizationError())
        else:
            await super()._process_err(err_msg)


class NatsDelivery:
    """A pulled JetStream message."""

    def __init__(self, msg: Msg) -> None:
        self._msg = msg
        meta = msg.metadata
        self._message = Message(
            subject=msg.subject,
            data=msg.data,
            headers=msg.headers or {},
            sequence=meta.sequence.stream,
            time=meta.timestamp,
            deliveries=meta.num_delivered or 1,
            behind=meta.num_pending or 0,
        )

    @property
    def message(self) -> Message:
        """Return the pulled message."""
        return self._message

    async def ack(self) -> None:
        """Acknowledge, and wait for the server's confirmation so that a restart right after causes no redelivery."""
        try:
            await self._msg.ack_sync(timeout=2)
        except (nats.errors.Error, TimeoutError):
            # If the acknowledgement was lost, the message is redelivered; every handler is idempotent.
            log.warning("acknowledgement not confirmed", action="bus.ack_unconfirmed", subject=self._msg.subject)

    async def ack_soon(self) -> None:
        """Acknowledge without waiting for the server."""
        await self._msg.ack()

    async def nak(self, delay: float) -> None:
        """Request redelivery after `delay` seconds."""
        with _unavailable("nak"):
            await self._msg.nak(delay=delay)

    async def in_progress(self) -> None:
        """Restart the ack wait while the message is being handled."""
        with _unavailable("in progress"):
            await self._msg.in_progress()


class NatsBus:
    """See `ocf.events.ports.Bus`."""

    def __init__(self, nc: NatsClient, note: Callable[[str], None] = lambda _: None) -> None:
        self.nc = nc
        self._note = note
        self._last_error = ""
        self.js: JetStreamContext = nc.jetstream(timeout=_TIMEOUT)
        self._pulls: dict[str, JetStreamContext.PullSubscription] = {}
        self._writers = Writers(nc)
        #: Set when the connection is lost, which aborts a pending fetch. Replaced by a new event after each reconnect.
        self._lost = asyncio.Event()

    def start(self) -> None:
        """Set up the state of a new connection."""
        self._lost.clear()
        self._bound_delays()

    def _bound_delays(self) -> None:
        # nats-py has no public access to its socket. Only Linux has this option.
        writer = getattr(self.nc._transport, "_io_writer", None)
        found = writer.get_extra_info("socket") if writer is not None else None
        if found is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNACKED * 1000))

    async def on_error(self, error: Exception) -> None:
        """Log an error of the connection, once while it repeats: an outage repeats it four times a second."""
        text = str(error) or type(error).__name__
        self._note(text)
        if text != self._last_error:
            self._last_error = text
            log.warning("NATS error", action="bus.error", error=text)

    async def on_disconnect(self) -> None:
        """Abort pending fetches."""
        self._lost.set()
        log.warning("NATS connection lost", action="bus.disconnected")

    async def on_reconnect(self) -> None:
        """Set up the new connection, and resend unacknowledged messages."""
        self._lost = asyncio.Event()
        self._last_error = ""
        self._bound_delays()
        self._writers.repair()
        log.info("NATS connection is back", action="bus.reconnected")

    async def close(self) -> None:
        """Flush queued messages and close the connection.

        Does not use `drain`, which waits half a minute for pulled messages that no handler will take.
        """
        self._writers.close()
        if self.nc.is_connected:
            with suppress(nats.errors.Error, TimeoutError):
                await self.nc.flush(timeout=2)
        await self.nc.close()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str], *, only_first: bool = False) -> int:
        """Implement `Bus.publish`."""
        sent = dict(headers)
        if only_first:
            sent["Nats-Expected-Last-Subject-Sequence"] = "0"
        self._check_size(subject, data, sent)
        with _unavailable(f"publish to {subject}"):
            try:
                ack = await self.js.publish(subject, data, headers=sent)
            except APIError as error:
                if error.err_code == WRONG_LAST_SEQUENCE:
                    raise Conflict(f"{subject} already has a message") from None
                if error.err_code == _MESSAGE_TOO_LARGE:
                    raise TooLarge(f"{subject}: {len(data)} bytes are more than its stream takes") from None
                raise
        return ack.seq

    def _check_size(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Raise TooLarge for a message to which the server would respond by closing the shared connection."""
        size, most = message_size(data, headers), min(MESSAGE_BYTES, self.nc.max_payload)
        if size > most:
            raise TooLarge(f"{subject}: {size} bytes with headers; at most {most}")

    def writer(
        self,
        subject: str,
        *,
        may_repeat: Callable[[], bool] | None = None,
        on_fenced: Callable[[], None] | None = None,
    ) -> NatsWriter:
        """Implement `Bus.writer`."""
        return self._writers.open(subject, may_repeat, on_fenced)

    async def publish_live(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Implement `Bus.publish_live`."""
        self._check_size(subject, data, headers)
        with _unavailable(f"publish to {subject}"):
            await self.nc.publish(subject, data, headers=dict(headers))

    async def history(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        """Implement `Bus.history` by batched direct gets (ADR-31), which need no consumer."""
        while True:
            request = {"seq": after + 1, "next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
            batch, pending = await self._batch(stream, request)
            for message in batch:
                yield message
                after = message.sequence
            if not batch or not pending:
                return

    async def last_of(self, stream: str, subjects: Sequence[str]) -> list[Message]:
        """Return the latest stored message of each of at most 1,024 subjects that has one."""
        return (await self._batch(stream, {"multi_last": list(subjects), "batch": len(subjects)}))[0]

    async def _batch(self, stream: str, request: Mapping[str, object]) -> tuple[list[Message], int]:
        """Return the messages of a direct get, and the number of messages that follow them in the stream."""
        found: list[Message] = []
        ended: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()

        # A callback instead of `next_msg`, which creates a task and a timer per message.
        async def take(msg: Msg) -> None:
            headers = msg.headers or {}
            if "Status" not in headers:
                found.append(_direct(msg.data, headers))
            elif not ended.done():
                ended.set_result(headers)

        inbox = self.nc.new_inbox()
        sub = await self.nc.subscribe(inbox, cb=take)
        try:
            with _unavailable(f"read {stream}"):
                await self.nc.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
                got = -1
                while not ended.done():
                    if len(found) == got:
                        raise TimeoutError("no answer")
                    got = len(found)
                    await asyncio.wait((ended,), timeout=_TIMEOUT)
        finally:
            await sub.unsubscribe()
        end = ended.result()
        if end["Status"] not in ("204", "404"):  # end of batch; no (more) messages
            raise Unavailable(f"read {stream}: {end['Status']} {end.get('Description', '')}")
        return found, int(end.get("Nats-Num-Pending", 0))

    async def first(self, stream: str, subject: str, *, after: int = 0) -> Message | None:
        """Implement `Bus.first`."""
        with _unavailable(f"read {stream}"):
            try:
                raw = await self.js.get_msg(stream, after + 1, subject, direct=True, next=True)
            except NotFoundError:
                return None
        return Message(raw.subject or subject, raw.data or b"", raw.headers or {}, raw.seq or 0, raw.time)

    async def last(self, stream: str, subject: str) -> Message | None:
        """Implement `Bus.last`."""
        with _unavailable(f"read {stream}"):
            try:
                raw = await self.js.get_last_msg(stream, subject, direct=not self._replicated)
            except NotFoundError:
                return None
        return Message(raw.subject or subject, raw.data or b"", raw.headers or {}, raw.seq or 0)

    @property
    def _replicated(self) -> bool:
        """Return whether streams may have several replicas.

        Any replica answers a direct get, including one that lags (ADR-31). A decision that depends on the absence of a
        message must therefore ask the leader, which takes twice the time.
        """
        return "cluster" in self.nc._server_info

    @asynccontextmanager
    async def listen(self, *subjects: str) -> AsyncIterator[AsyncIterator[Message]]:
        """Implement `Bus.listen`."""
        inbox = Inbox()

        async def put(msg: Msg) -> None:
            inbox.put(Message(msg.subject, msg.data, msg.headers or {}))

        subscriptions = []
        try:
            with _unavailable("subscribe"):
                for subject in subjects:
                    subscriptions.append(await self.nc.subscribe(subject, cb=put))
                await self.nc.flush(timeout=int(_TIMEOUT))  # the subscriptions are active before the caller publishes
            yield inbox
        finally:  # also when the server did not answer: a subscription without a reader would stay for ever
            for subscription in subscriptions:
                if not self.nc.is_closed:
                    await subscription.unsubscribe()

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        """Implement `Bus.fetch`."""
        with _unavailable(f"fetch for {consumer.name}"):
            pull = self._pulls.get(consumer.name) or await self._bind(consumer)
            fetching = asyncio.ensure_future(pull.fetch(limit, timeout=wait))
            lost = asyncio.ensure_future(self._lost.wait())
            try:
                await asyncio.wait({fetching, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not fetching.done():
                    raise Unavailable("NATS connection lost while fetching")
                return [NatsDelivery(msg) for msg in fetching.result()]
            except TimeoutError:
                return []
            except (JetStreamError, nats.errors.Error):
                # The consumer may have been deleted (a new store, an operator): bind again next time.
                await self._unbind(consumer)
                raise
            finally:
                fetching.cancel()
                lost.cancel()

    async def _bind(self, spec: ConsumerSpec) -> JetStreamContext.PullSubscription:
        await self.js.add_consumer(spec.stream, _config(spec))
        pull = await self.js.pull_subscribe_bind(durable=spec.name, stream=spec.stream)
        self._pulls[spec.name] = pull
        return pull

    async def _unbind(self, spec: ConsumerSpec) -> None:
        pull = self._pulls.pop(spec.name, None)
        if pull is not None and not self.nc.is_closed:
            with suppress(nats.errors.Error):
                await pull.unsubscribe()

    async def backlog(self, consumer: ConsumerSpec) -> Backlog:
        """Implement `Bus.backlog`."""
        with _unavailable(f"look at {consumer.name}"):
            info = await self.js.consumer_info(consumer.stream, consumer.name)
        return Backlog(waiting=info.num_pending or 0, unsettled=info.num_ack_pending or 0)

    async def consumers(self, stream: str) -> list[ConsumerState]:
        """Implement `Bus.consumers`."""
        found: list[ConsumerState] = []
        with _unavailable(f"list the consumers of {stream}"):
            while page := await self.js.consumers_info(stream, offset=len(found)):
                found += [_state(info) for info in page]
        return found

    async def open_consumer(self, consumer: ConsumerSpec) -> int:
        """Implement `Bus.open_consumer`."""
        with _unavailable(f"create consumer {consumer.name}"):
            try:
                info = await self.js.add_consumer(consumer.stream, _config(consumer))
            except APIError as error:
                if error.err_code != _OTHER_CONFIG:
                    raise
                info = await self.js.consumer_info(consumer.stream, consumer.name)
        return _state(info).start

    async def remove_consumer(self, consumer: ConsumerSpec) -> None:
        """Implement `Bus.remove_consumer`."""
        await self._unbind(consumer)
        with _unavailable(f"remove consumer {consumer.name}"), suppress(NotFoundError):
            await self.js.delete_consumer(consumer.stream, consumer.name)

    async def purge(self, stream: str, subject: str, *, through: int | None = None) -> int:
        """Implement `Bus.purge`; with `through`, only up to that stream sequence."""
        command: dict[str, object] = {"filter": subject} if through is None else {"filter": subject, "seq": through + 1}
        with _unavailable(f"purge {stream}"):
            reply = await self.nc.request(
                f"$JS.API.STREAM.PURGE.{stream}", json.dumps(command).encode(), timeout=_TIMEOUT
            )
            answer = json.loads(reply.data)
        if "error" in answer:
            raise Unavailable(f"purge {stream}: {answer['error'].get('description')}")
        return int(answer.get("purged", 0))

    async def remove(self, stream: str, sequence: int) -> bool:
        """Implement `Bus.remove`."""
        with _unavailable(f"remove from {stream}"):
            try:
                return await self.js.delete_msg(stream, sequence)
            except APIError as error:
                if error.err_code in _NO_SUCH_MESSAGE:
                    return False
                raise

    async def ready(self) -> None:
        """Implement `Bus.ready`."""
        if not self.nc.is_connected:
            raise Unavailable("not connected to NATS")
        with _unavailable("JetStream"):
            await self.js.account_info()


def _config(spec: ConsumerSpec) -> ConsumerConfig:
    policy = DeliverPolicy.NEW if spec.from_now else DeliverPolicy.ALL
    return ConsumerConfig(
        durable_name=spec.name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if spec.start else policy,
        opt_start_seq=spec.start or None,
        filter_subjects=list(spec.subjects),
        ack_wait=spec.ack_wait,
        max_ack_pending=spec.max_in_flight or -1,
        max_deliver=-1,  # the dispatcher counts and dead-letters; the server would stop delivering without notice
        headers_only=spec.headers_only,
    )


def _state(info: ConsumerInfo) -> ConsumerState:
    backlog = Backlog(waiting=info.num_pending or 0, unsettled=info.num_ack_pending or 0)
    acknowledged = info.ack_floor.stream_seq if info.ack_floor is not None else 0
    return ConsumerState(info.name, info.config.opt_start_seq or 0, backlog, acknowledged)


def _direct(data: bytes, headers: Mapping[str, str]) -> Message:
    published = {k: v for k, v in headers.items() if k not in _DIRECT_HEADERS}
    when = datetime.fromisoformat(headers["Nats-Time-Stamp"]).astimezone(UTC)
    return Message(headers["Nats-Subject"], data, published, int(headers["Nats-Sequence"]), when)


_DIRECT_HEADERS = frozenset(
    {"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"}
)


class _unavailable:  # noqa: N801  (reads as a statement)
    """Convert nats-py's connection errors and timeouts into Unavailable."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _tb: object) -> None:
        if isinstance(error, nats.errors.Error | JetStreamError | TimeoutError | ConnectionError):
            raise Unavailable(f"{self._what}: {error or type(error).__name__}") from error
