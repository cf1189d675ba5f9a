"""Polls: what changed on a forge becomes the events that its webhooks would send, with the same types and ids.

A poll never fails its tick: a problem stands in the rule's state, and the next tick tries again. Time is the forge's:
each poll reads the last minute again, and `seen` leaves out what is known of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
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
        async with asyncio.timeout(_SECONDS), forge_client() as client:
            access = await self.credentials.access(client, project, poll.credential, repository=poll.repository)
            access.address.require(poll.forge, poll.api_url, poll.credential)
            forge = access.connect(client)
            after, events = await self._read(forge, poll, state)
        problem = after.problem
        for event in events:
            if len(event.data) > INBOX.bytes:
                problem = f"{event.type} is larger than {INBOX.bytes} bytes and was left out"
                continue
            subject = subjects.inbox(project, poll.forge)
            identity = {"Nats-Msg-Id": f"{subject} {event.id}"}  # of this project's inbox only
            await self.bus.publish(subject, event.data, {**event.headers(), **identity})
        return after.model_copy(update={"problem": problem})

    async def _read(self, forge: Forge, poll: Poll, state: PollState) -> tuple[PollState, list[Event]]:
        first, now = state.since is None, self.clock.now()
        start = state.since or now - _FIRST
        listing = await forge.listing(poll.repository, poll.what, start - _AGAIN, state.etag)
        if not listing.modified:
            return state.model_copy(update={"problem": ""}), []
        known = state.seen
        items = sorted((one for one in listing.items if _item(one) not in known), key=changed_at)
        latest = max((start, *map(changed_at, items)))
        floor = (latest if first else start) - _AGAIN
        batch = [one for one in items if changed_at(one) >= floor][: None if first else _ITEMS]
        seen, events = {_item(one): changed_at(one) for one in batch}, []
        changes, left_out = await _changes(forge, poll, batch, floor)
        for change in changes:
            event = forge_event(poll.forge, change.name, change.payload, json.dumps(change.payload).encode(), now)
            if (key := _short(event.id)) not in known:
                seen[key] = change.time
                events.append(event)
        more = len(batch) < len(items) and not first
        latest = max((start, *map(changed_at, batch))) if more else latest
        problem = (
            "there are more changes than the forge lists, or too large ones; they were not read"
            if listing.cut
            else left_out
        )
        kept = {key: time for key, time in {**known, **seen}.items() if time >= latest - _AGAIN}
        fields = {"since": latest, "etag": None if more else listing.etag, "seen": kept}
        return state.model_copy(update={**fields, "problem": "" if first else problem}), [] if first else events


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
        return f"the forge did not answer within {_SECONDS:g} s"
    return f"the answer is not one of {poll.forge}: {type(error).__name__} {error}"
