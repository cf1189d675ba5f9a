"""Polls: what changed on a forge becomes the events that its webhooks would send, with the same types and ids.

A poll never fails its tick: a problem stands in the rule's state, and the next tick tries again. Time is the forge's:
each poll reads the last minute again, and `seen` leaves out what is known of it. A forge may be slow: a poll reads as
many items as its time allows, and the next one goes on behind the last of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ocf.events import subjects
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, Drop, OcfError
from ocf.events.ports import Bucket, Bus, Clock
from ocf.events.untrusted_json import INBOX, shorten
from ocf.functions.core.compare_and_set import dump
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.forges.forge import Change, Forge, changed_at
from ocf.functions.forges.http import AnswerTooLarge, ForgeRefused, ForgeUnavailable, forge_client
from ocf.functions.rules.forge_cloudevents import forge_event
from ocf.functions.rules.poll_schedule import PollState, digest, disarm, state_key
from ocf.functions.rules.rule import Poll
from ocf.functions.rules.rulebook import RuleBook

#: Of one poll. No item is begun after two thirds of it, except the first: the rest is for those that are read then.
_SECONDS = 45.0
_AGAIN = timedelta(seconds=60)
#: The first poll looks so far back for the forge's time; it starts nothing.
_FIRST = timedelta(days=1)
_ITEMS = 20


@dataclass(frozen=True)
class Polls:
    """The handler of ticks of polling rules."""

    bus: Bus
    triggers: Bucket
    rulebook: RuleBook
    credentials: ForgeCredentials
    clock: Clock

    async def handle(self, project: str, name: str) -> None:
        """Publish what is new in the repository of a rule.

        Raises:
            Drop: the rule does not poll any more.
        """
        rule = next((one.rule for one in await self.rulebook.rules(project) if one.rule.name == name), None)
        if rule is None or rule.poll is None:
            await disarm(self.bus, project, name)
            raise Drop(f"rule {name} does not poll")
        entry = await self.triggers.get(state_key(project, name))
        state = PollState() if entry is None else PollState.read(entry.value)
        if state.of != digest(rule.poll):
            state = PollState(of=digest(rule.poll))  # another repository: its old items start nothing
        wait = f"wait.{project}.{rule.poll.credential}"
        if await self.triggers.get(wait) is not None:
            return  # the forge asked this credential to wait
        state = state.model_copy(update={"polled_at": self.clock.now()})
        try:
            state = await self._poll(project, rule.poll, state)
        except (OcfError, TimeoutError, LookupError, TypeError, ValueError) as error:
            asked = error.retry_after if isinstance(error, ForgeUnavailable) else None
            if asked:
                with suppress(Conflict):
                    await self.triggers.create(wait, b"1", ttl=int(asked) + 1)
            state = state.model_copy(update={"problem": shorten(_why(error, rule.poll), 500)})
        with suppress(Conflict):  # a poll at the same time was faster: the next one goes on from its state
            await self.triggers.update(state_key(project, name), dump(state), entry.revision if entry else 0)

    async def _poll(self, project: str, poll: Poll, state: PollState) -> PollState:
        """Publish what is new; return the state after it."""
        times = _Times.from_now()
        async with forge_client() as client:
            async with asyncio.timeout_at(times.begin_until):
                access = await self.credentials.access(client, project, poll.credential, repository=poll.repository)
                access.address.require(poll.forge, poll.api_url, poll.credential)
                forge = access.connect(client)
            after, events = await self._read(forge, poll, state, times)
        problem = after.problem
        for event in events:
            if len(event.data) > INBOX.bytes:
                problem = f"{event.type} is larger than {INBOX.bytes} bytes and was left out"
                continue
            subject = subjects.inbox(project, poll.forge)
            identity = {"Nats-Msg-Id": f"{subject} {event.id}"}  # of this project's inbox only
            await self.bus.publish(subject, event.data, {**event.headers(), **identity})
        return after.model_copy(update={"problem": problem})

    async def _read(self, forge: Forge, poll: Poll, state: PollState, times: _Times) -> tuple[PollState, list[Event]]:
        first, now = state.since is None, self.clock.now()
        start = state.since or now - _FIRST
        async with asyncio.timeout_at(times.begin_until):
            listing = await forge.listing(poll.repository, poll.what, start - _AGAIN, state.etag)
        if not listing.modified:
            return state.model_copy(update={"problem": ""}), []
        known = state.seen
        items = sorted((one for one in listing.items if _item(one) not in known), key=changed_at)
        latest = max((start, *map(changed_at, listing.items)))
        floor = (latest if first else start) - _AGAIN
        batch = [one for one in items if changed_at(one) >= floor][: None if first else _ITEMS]
        read = await _read_items(forge, poll, batch, floor, known, times)
        done = batch[: read.count]
        seen, events = {_item(one): changed_at(one) for one in done} | read.slow, []
        for change in read.changes:
            event = forge_event(poll.forge, change.name, change.payload, json.dumps(change.payload).encode(), now)
            if (key := _short(event.id)) not in known:
                seen[key] = change.time
                events.append(event)
        more = len(done) < len(batch if first else items)
        if more and not first:
            latest = max((start, *map(changed_at, done)))
        cut = "there are more changes than the forge lists, or too large ones; they were not read"
        problem = cut if listing.cut else read.problem
        problem = "" if first and not read.slow else problem  # what is old may be left out
        kept = {key: time for key, time in {**known, **seen}.items() if time >= latest - _AGAIN}
        # A first poll that is not at its end goes on as the first: what it has not read yet is old as well.
        since = None if more and first else latest
        fields = {"since": since, "etag": None if more else listing.etag, "seen": kept, "problem": problem}
        return state.model_copy(update=fields), [] if first else events


@dataclass(frozen=True)
class _Times:
    """When a poll begins with no further item, and when it ends, by the event loop's time."""

    begin_until: float
    end: float

    @classmethod
    def from_now(cls) -> _Times:
        now = asyncio.get_running_loop().time()
        return cls(now + _SECONDS * 2 / 3, now + _SECONDS)


@dataclass
class _ReadItems:
    """The first `count` items of a batch are done; `slow` marks one that needed all the time, and was not done."""

    count: int = 0
    changes: list[Change] = field(default_factory=list)
    slow: dict[str, datetime] = field(default_factory=dict)
    problem: str = ""


async def _read_items(
    forge: Forge, poll: Poll, batch: list[dict[str, Any]], floor: datetime, known: Mapping[str, datetime], times: _Times
) -> _ReadItems:
    """Read items in their order while there is time, at least one of them.

    One that needs all the time for itself is left out at the second poll in which it does: a forge may be slow for
    once.
    """
    loop, read, size = asyncio.get_running_loop(), _ReadItems(), 1
    while read.count < len(batch) and (read.count == 0 or loop.time() < times.begin_until):
        began, part = loop.time(), batch[read.count : read.count + size]
        try:
            async with asyncio.timeout_at(times.end):
                changes, left_out = await _changes(forge, poll, part, floor)
        except (TimeoutError, ForgeUnavailable) as error:
            if not _slow(error, loop.time() - began):
                raise
            if read.count:
                break  # they had not all the time: the next poll begins with them
            mark = _short(f"slow {_item(part[0])}")
            if mark not in known:
                read.slow[mark], read.problem = changed_at(part[0]), _why(error, poll)
                break
            changes, left_out = [], f"an item was left out: {_why(error, poll)}"
        read.count += len(part)
        read.changes += changes
        read.problem = left_out or read.problem
        # Each call for a portion reads the repository again, so portions grow, as far as the time seems to allow.
        ended = loop.time()
        pace = max(ended - began, 0.001) / len(part)
        size = max(1, min(2 * size, int((times.begin_until - ended) / pace)))
    return read


def _slow(error: TimeoutError | ForgeUnavailable, seconds: float) -> bool:
    """Return whether it was the time that was not enough: other failures of a forge end, and leave nothing out."""
    return isinstance(error, TimeoutError) or (not error.retry_after and seconds > _SECONDS / 2)


async def _changes(forge: Forge, poll: Poll, batch: list[dict[str, Any]], floor: datetime) -> tuple[list[Change], str]:
    """Return what happened to items, and why some were left out: one that cannot be read stops no other."""
    try:
        return await forge.changes(poll.repository, poll.what, batch, floor), ""
    except _OF_ITEM as error:
        if not _of_item(error):
            raise
    found: list[Change] = []
    problem = ""
    for item in batch:
        try:
            found += await forge.changes(poll.repository, poll.what, [item], floor)
        except _OF_ITEM as error:
            if not _of_item(error):
                raise
            problem = f"an item was left out: {_why(error, poll)}"
    return found, problem


#: What an item's own data can cause.
_OF_ITEM = (ForgeRefused, LookupError, TypeError, ValueError)


def _of_item(error: BaseException) -> bool:
    return not isinstance(error, ForgeRefused) or isinstance(error, AnswerTooLarge) or error.status in (404, 410)


def _item(item: dict[str, object]) -> str:
    return _short(f"{item.get('id')} {changed_at(item).isoformat()}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _why(error: BaseException, poll: Poll) -> str:
    if isinstance(error, OcfError | ForgeRefused):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the forge did not answer in time"
    return f"the answer is not one of {poll.forge}: {type(error).__name__} {error}"
