"""Follow-ups: events about one issue or pull request are turns of one session, for rules that say `follow_up`."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from ocf.events import subjects
from ocf.events.command_payloads import EmptyWorkspace, SessionCreate, Submit
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import Event, new_event
from ocf.events.errors import Conflict
from ocf.events.execution_ref import SessionRef
from ocf.events.ports import Bucket, Bus, Clock
from ocf.functions.core.session_store import Sessions
from ocf.functions.rules.condition import EventView
from ocf.functions.rules.forge_cloudevents import branch_of, comment_of, place_of
from ocf.functions.rules.rulebook import CompiledRule
from ocf.functions.rules.submit_publisher import SOURCE

_NAMESPACE = uuid.UUID("6f63662d-7472-6967-6765-722d74687264")
#: Seconds for which a review of a pull request finds the session that made its branch.
_BRANCH_SECONDS = 90 * 86_400


@dataclass(frozen=True)
class FollowUps:
    """The sessions of rules."""

    bus: Bus
    triggers: Bucket
    sessions: Sessions
    clock: Clock

    async def continues(self, rule: CompiledRule, event: EventView) -> bool:
        """Return whether the event is a comment or review on what a session of the rule is about."""
        if rule.broken or comment_of(event) is None:
            return False
        session = await self._session(rule, event)
        found = None if session is None else await self.sessions.get(rule.project, session)
        return found is not None and found.usable

    async def in_session(self, rule: CompiledRule, submit: Submit, event: EventView, cause: Event) -> Submit:
        """Return the submit as a turn of its session, which is created first; unchanged without a session."""
        session = await self._session(rule, event)
        if session is None:
            return submit
        ref = SessionRef(rule.project, session)
        if await self.bus.last(subjects.EVENTS, ref.fact("destroyed")) is not None:
            return submit  # the session has expired, and its id cannot be used again
        if await self.sessions.get(rule.project, session) is None:
            data = SessionCreate(
                project_id=rule.project, session_id=session, requested_by=SOURCE, workspace=submit.workspace
            )
            create = new_event("dev.ocf.session.create.v1", data, source=SOURCE, time=self.clock.now(), cause=cause)
            await publish_command(self.bus, create, rule.project)
        changed: dict[str, object] = {"session_id": session, "workspace": EmptyWorkspace()}
        place, branch = place_of(event), branch_of(event)
        if submit.result is not None and place is not None:
            if branch is not None and await self.triggers.get(_branch_key(rule, place.repository, branch)) is not None:
                changed["result"] = submit.result.model_copy(update={"branch": branch})  # the one under review
            else:
                await self._remember(_branch_key(rule, place.repository, submit.result.branch), session)
        return submit.model_copy(update=changed)

    async def _session(self, rule: CompiledRule, event: EventView) -> str | None:
        """Return the id of the session of an event: that of the branch's author, else that of the number."""
        place, branch = place_of(event), branch_of(event)
        if place is None:
            return None
        made = None if branch is None else await self.triggers.get(_branch_key(rule, place.repository, branch))
        if made is not None:
            return made.value.decode()
        return str(uuid.uuid5(_NAMESPACE, f"{rule.project}\n{rule.rule.name}\n{place.repository}\n{place.number}"))

    async def _remember(self, key: str, session: str) -> None:
        try:
            await self.triggers.create(key, session.encode(), ttl=_BRANCH_SECONDS)
        except Conflict:
            return  # an earlier turn made the branch


def _branch_key(rule: CompiledRule, repository: str, branch: str) -> str:
    digest = hashlib.sha256(f"{repository}\n{branch}".encode()).hexdigest()[:32]
    return f"branch.{rule.project}.{rule.rule.name}.{digest}"
