"""The steady load: executions of several kinds, half of them over the gateway, and what clients were told of each."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import httpx2

from faults import hostile_load
from faults.check import Ledger
from faults.system import System
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.adapters.s3 import S3Store
from ocf.events.client import Client
from ocf.events.errors import NotYetKnown, OcfError
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from tests.support.poison import Poison

#: A client gives up after that long; nothing here is away for so long.
PATIENCE = 150.0
_AGAIN = 1.0


def talk(words: int, delay: float, *, model: bool = False, daemons: bool = False) -> list[dict[str, Any]]:
    """A scripted turn of numbered words."""
    steps: list[dict[str, Any]] = [{"write": {"path": "notes.md", "content": "one\n"}}]
    if daemons:
        steps.append({"daemons": {"count": 2, "seconds": 600}})
    steps += [{"text": f"w{number} ", "delay": delay} for number in range(words)]
    if model:
        steps.append({"model": {"prompt": "hello"}})
    return [*steps, {"text": "wend"}]


#: Kinds of executions: request, and when it is cancelled or deleted, seconds after its submit (None: never).
KINDS: tuple[tuple[str, dict[str, Any], float | None, float | None], ...] = (
    ("talk", {"prompt": talk(8, 0.25, model=True), "retry": {"max_attempts": 3}}, None, None),
    ("long", {"prompt": talk(20, 0.5), "retry": {"max_attempts": 3}}, None, None),
    ("once", {"prompt": talk(8, 0.3)}, None, None),
    ("cancelled", {"prompt": talk(40, 0.5), "retry": {"max_attempts": 3}}, 1.5, None),
    ("daemons", {"prompt": talk(6, 0.2, daemons=True), "retry": {"max_attempts": 2}}, None, None),
    ("deleted", {"prompt": talk(4, 0.2), "retry": {"max_attempts": 3}}, None, 3.0),
    ("model", {"prompt": talk(2, 0.1, model=True), "retry": {"max_attempts": 3}}, None, None),
    ("cancelled at once", {"prompt": talk(20, 0.5)}, 0.0, None),
)

#: Executions that may be open at once, of all honest projects and of the hostile tenant. A load that goes on
#: submitting while nothing is served measures the length of its own queue, and does not settle.
MAX_OPEN, MAX_HOSTILE = 40, 4

#: Executions between two sessions.
_SESSION_EVERY = 8
_TURNS = 2
#: What a turn leaves, and what it says of the turns before it (`faults.check_sessions`).
_COUNTED = {"run": "echo turn >> turns; echo kept $(wc -l < turns)"}


class Load:
    """Started by `begin`; what is submitted belongs to `project`, which the matrix changes as it goes."""

    def __init__(self, system: System, bus: NatsBus, store: S3Store, rate: float) -> None:
        self.ledger = Ledger()
        self.project = "calm"
        self.failed: list[str] = []
        #: Calls that the gateway could not answer (5xx) and their Unix times, by project.
        self.refused: dict[str, list[tuple[float, str]]] = {}
        self._system = system
        self._bus = bus
        self._store = store
        self._every = 1 / rate
        self._kinds = itertools.cycle(KINDS)
        self._wishes, self._storm = hostile_load.requests(), hostile_load.storm()
        self._over_gateway = itertools.cycle((True, False, False, True, True))
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[str, Client] = {}
        self._going: list[asyncio.Task[None]] = []
        self._http = httpx2.AsyncClient(
            base_url=system.url("gateway"),
            headers={"authorization": f"Bearer {system.gateway_token}"},
            timeout=httpx2.Timeout(5.0),
        )

    def begin(self) -> None:
        """Start submitting."""
        self._going = [asyncio.create_task(work) for work in (self._run(), self._close())]
        for task in self._going:
            task.add_done_callback(self._ended)

    async def pause(self) -> None:
        """Submit nothing more; every client has its answer when this returns."""
        await cancel_and_wait(self._going)
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end(self) -> None:
        """For good."""
        await self.pause()
        await self._http.aclose()

    @property
    def count(self) -> int:
        """Executions that were accepted."""
        return len(self.ledger.accepted)

    async def poison(self) -> None:
        """One command that is none: it must become a dead letter."""
        headers = {"Content-Type": "application/cloudevents+json"}
        poison = Poison("no event", "", b"this is no event", headers)
        await self._poison(f"ocf.cmd.cancel.{self.project}.{uuid.uuid4()}", poison)

    async def _run(self) -> None:
        destroyed = itertools.cycle((False, True))
        for number, what in enumerate(self._kinds, 1):
            while self._count_open() >= MAX_OPEN:
                await asyncio.sleep(self._every)
            execution = str(uuid.uuid4())
            self._start(self._one(self._caller(), execution, *what))
            self._start(self._poison(*next(self._storm)))
            if number % hostile_load.EVERY == 0 and self._count_open(hostile_load.HOSTILE) < MAX_HOSTILE:
                self._start(self._hostile(execution))
            if number % _SESSION_EVERY == 0:
                self._start(self._session(self._caller(), destroy=next(destroyed)))
            await asyncio.sleep(self._every)

    def _count_open(self, project: str | None = None) -> int:
        """Count the open executions of a project; of all but the hostile tenant when it is None."""
        hostiles = sum(key.startswith(f"{hostile_load.HOSTILE}/") for key in self._open)
        return hostiles if project == hostile_load.HOSTILE else len(self._open) - hostiles

    async def _close(self) -> None:
        """Take the executions that have ended, or were deleted, out of the open ones."""
        while True:
            for key, client in list(self._open.items()):
                try:
                    ended = (await client.status(key.partition("/")[2])).terminal
                except NotYetKnown:
                    ended = key in self.ledger.deleted
                except OcfError:
                    break  # NATS is away: the next round asks again
                if ended:
                    del self._open[key]
            await asyncio.sleep(self._every)

    def _accepted(self, client: Client, execution: str) -> None:
        key = f"{client.project}/{execution}"
        self.ledger.accepted.add(key)
        self._open[key] = client

    def _caller(self) -> _Caller:
        client = self._system.client(self._bus, self.project, self._store)
        return _Caller(self._http, client, next(self._over_gateway), self.refused)

    def _start(self, calls: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(calls)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What a client did not expect is a result, too; a load that has stopped by itself all the more."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(f"load: {error!r}")

    async def _poison(self, subject: str, poison: Poison) -> None:
        self.ledger.poison.add(subject)
        headers = {**poison.headers, "Nats-Msg-Id": subject}

        async def publish() -> None:
            await self._bus.publish(subject, poison.data, headers)

        await self._until_taken(publish, f"poison {subject}")

    async def _hostile(self, execution: str) -> None:
        """A hostile tenant's execution, under the id of an honest one."""
        wish = next(self._wishes)
        body = {**wish, "prompt": f"[[steps]] {json.dumps(wish['prompt'])}"}
        client = self._system.client(self._bus, hostile_load.HOSTILE, self._store)
        caller = _Caller(self._http, client, False, self.refused)
        key = f"{hostile_load.HOSTILE}/{execution}"
        if await self._until_taken(lambda: caller.submit(execution, body), f"submit {key}"):
            self._accepted(caller.client, execution)

    async def _one(
        self,
        caller: _Caller,
        execution: str,
        kind: str,
        request: dict[str, Any],
        cancel: float | None,
        delete: float | None,
    ) -> None:
        body = {**request, "prompt": f"[[steps]] {json.dumps(request['prompt'])}", "labels": {"kind": kind}}
        key = f"{caller.client.project}/{execution}"
        if not await self._until_taken(lambda: caller.submit(execution, body), f"submit {key}"):
            return
        self._accepted(caller.client, execution)
        if cancel is not None:
            await asyncio.sleep(cancel)
            await self._until_taken(lambda: caller.cancel(execution), f"cancel {key}")
        if delete is not None:
            await asyncio.sleep(delete)
            self.ledger.asked_to_delete.add(key)
            if await self._until_taken(lambda: caller.delete(execution), f"delete {key}"):
                self.ledger.deleted.add(key)

    async def _session(self, caller: _Caller, *, destroy: bool) -> None:
        """A session, its turns right after each other, and perhaps its end in the midst of them."""
        client, session = caller.client, str(uuid.uuid4())
        key = f"{client.project}/{session}"

        async def create() -> None:
            await client.sessions.create(session_id=session)

        if not await self._until_taken(create, f"session {key}"):
            return
        turns, sent = self.ledger.sessions.setdefault(key, []), set[str]()
        for _ in range(_TURNS):
            execution = str(uuid.uuid4())
            sent.add(f"{client.project}/{execution}")
            steps = f"[[steps]] {json.dumps([_COUNTED, *talk(4, 0.3)])}"
            body = {"prompt": steps, "session_id": session, "retry": {"max_attempts": 3}, "labels": {"kind": "turn"}}
            if await self._until_taken(partial(caller.submit, execution, body), f"turn {execution} of {key}"):
                self._accepted(client, execution)
                turns.append(execution)
        if not destroy:
            return

        async def known() -> None:
            # What comes to a session after it was destroyed is rejected.
            if (await client.sessions.get(session)).executions != turns:
                raise NotYetKnown(f"a turn of {key}")

        if not await self._until_taken(known, f"turns of {key}"):
            return
        self.ledger.asked_to_destroy.add(key)
        self.ledger.asked_to_delete |= sent
        if await self._until_taken(partial(client.sessions.destroy, session), f"destroy {key}"):
            self.ledger.destroyed.add(key)
            self.ledger.deleted.update(f"{client.project}/{execution}" for execution in turns)

    async def _until_taken(self, call: Callable[[], Awaitable[None]], what: str) -> bool:
        """Whether it was taken in the end. A client repeats what was not answered; ids make that harmless."""
        last: Exception | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await call()
                        return True
                    except (OcfError, httpx2.HTTPError, OSError) as error:
                        last = error
                    await asyncio.sleep(_AGAIN)
        except TimeoutError:
            self.failed.append(f"{what}: not taken within {PATIENCE:.0f} s: {last!r}")
            return False


class _Caller:
    """A client of one project, over the gateway or straight on the bus."""

    def __init__(
        self, http: httpx2.AsyncClient, client: Client, over_gateway: bool, refused: dict[str, list[tuple[float, str]]]
    ) -> None:
        self.client = client
        self._http = http
        self._over = over_gateway
        self._asked_to_delete = False
        self._refused = refused

    async def submit(self, execution: str, body: dict[str, Any]) -> None:
        if not self._over:
            await self.client.submit(execution_id=execution, **body)
            return
        wish = {**body, "execution_id": execution, "project_id": self.client.project}
        self._answered(await self._http.post("/tasks/execute", json=wish)).raise_for_status()

    async def cancel(self, execution: str) -> None:
        if not self._over:
            await self.client.cancel(execution, why="load")
            return
        await self._ask("POST", f"/tasks/{execution}/cancel")

    async def delete(self, execution: str) -> None:
        if not self._over:
            await self.client.delete(execution)
            return
        try:
            await self._ask("DELETE", f"/tasks/{execution}")
        except NotYetKnown:
            if not self._asked_to_delete:
                raise
            return  # an earlier call, whose answer was lost, has been carried out
        finally:
            self._asked_to_delete = True

    async def _ask(self, method: str, path: str) -> None:
        response = self._answered(await self._http.request(method, path, params={"project_id": self.client.project}))
        if response.status_code == 404:
            raise NotYetKnown(f"{method} {path}")  # its submit is on its way
        if response.status_code != 409:  # it has ended: there is nothing to cancel
            response.raise_for_status()

    def _answered(self, response: httpx2.Response) -> httpx2.Response:
        if response.status_code >= 500:
            said = (
                f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:200]}"
            )
            self._refused.setdefault(self.client.project, []).append((time.time(), said))
        return response
