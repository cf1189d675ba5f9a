"""The rules of every project in the bucket `ocf_triggers`, compiled, and the decision of each about an event.

A key is `rule.<project>.<name>`. The value of `version.<project>` changes with every change of a rule: one look-up per
event shows whether the compiled rules are the stored ones.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ocf.events.command_payloads import TRIGGER_LABEL, Submit
from ocf.events.envelope import Event, field_errors, timestamp
from ocf.events.errors import Conflict, DeadLetter
from ocf.events.ports import Bucket
from ocf.events.untrusted_json import INBOX, parse_json
from ocf.functions.rules.condition import Condition, ConditionFailed, EventView, share
from ocf.functions.rules.forge_cloudevents import comment_of, place_of
from ocf.functions.rules.rule import InvalidRule, On, Rule, compile_condition, compile_texts, replace_texts
from ocf.functions.rules.text_template import TemplateFailed, Text

_NAMESPACE = uuid.UUID("6f63662d-7472-6967-6765-722d72756c65")
_PROJECTS = 256
MAX_RULES = 500
_COMMENT = Text("{{ event.comment }}", marked=True)


class RuleFailed(DeadLetter):
    """A rule cannot handle the event."""


def view(event: Event) -> EventView:
    """Return the event as rules see it: attributes, extensions, and the payload as `data`.

    Raises:
        InvalidEvent: The payload is larger or deeper than `input_limits.INBOX`.
    """
    attributes = {"id": event.id, "source": event.source, "type": event.type, "time": timestamp(event.time)}
    subject = {"subject": event.subject} if event.subject is not None else {}
    data = parse_json(event.data, INBOX) if event.data else None
    return EventView({**event.extensions, **attributes, **subject, "data": data})


def execution_id(project: str, name: str, event: Event) -> str:
    """Return the id of the execution that a rule or schedule starts for an event: one for every redelivery."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join((project, name, event.source, event.id))))


class CompiledRule:
    """A stored rule. `broken` says why it cannot be used, in which case it matches nothing."""

    def __init__(self, rule: Rule, project: str) -> None:
        self.rule, self.project = rule, project
        self.broken = ""
        wanted = (("type", rule.on.type), ("source", rule.on.source), ("subject", rule.on.subject))
        self._false = f"where is false: {rule.on.where}"
        self._attributes = tuple((name, pattern) for name, pattern in wanted if pattern is not None)
        try:
            self._condition = compile_condition(rule)
            self._texts = compile_texts(rule.task)
        except InvalidRule as error:
            self.broken = str(error)

    @property
    def condition(self) -> Condition | None:
        """Return its compiled condition."""
        return None if self.broken else self._condition

    def mismatch(self, event: EventView) -> str | None:
        """Return why the rule does not match the event, or None if it does.

        Raises:
            RuleFailed: The condition cannot be evaluated; names rule and field.
        """
        for name, pattern in self._attributes:
            value = event.get(name)
            if value != pattern and not _matches(pattern, value):
                return f"{name} is {value}, not {pattern}"
        if self.broken:
            raise RuleFailed(f"rule {self.rule.name}: {self.broken}")
        if event.own and not self.rule.own_events:
            return "an execution caused the event, and the rule does not say own_events"
        try:
            held = self._condition is None or self._condition.holds(event)
        except ConditionFailed as error:
            raise RuleFailed(f"rule {self.rule.name}: on.where: {error}") from None
        return None if held else self._false

    def turn(self, event: EventView, execution: str) -> Submit:
        """Return the submit of a follow-up: the comment is the prompt. Raises as `submit`."""
        comment = _COMMENT.render({"comment": comment_of(event)})
        return self.submit(event, execution, {**self.rule.task, "prompt": comment})

    def submit(self, event: EventView, execution: str, task: Mapping[str, Any] | None = None) -> Submit:
        """Return the submit of the rule for an event that it matches; `task` stands for the rule's own.

        Raises:
            RuleFailed: A text has no result, or the task is not valid with it; names rule and field.
        """

        def rendered(path: str, _: str) -> str:
            began = time.thread_time()
            try:
                return self._texts[path].render(event, event.seconds)
            except TemplateFailed as error:
                raise RuleFailed(f"rule {self.rule.name}: task.{path}: {error}") from None
            finally:
                event.seconds -= time.thread_time() - began

        task = replace_texts(self.rule.task, rendered) if task is None else self._with_prompt(task, rendered)
        labels = {**(task.get("labels") or {}), TRIGGER_LABEL: self.rule.name}
        ids = {"execution_id": execution, "project_id": self.project, **self._reply_to(event)}
        try:
            return Submit.model_validate_json(json.dumps({**task, "labels": labels, **ids}), strict=True)
        except ValidationError as error:
            found = "; ".join(f"task.{one.field}: {one.message}" for one in field_errors(error))
            raise RuleFailed(f"rule {self.rule.name}: {found}") from None

    def _with_prompt(self, task: Mapping[str, Any], rendered: Callable[[str, str], str]) -> dict[str, Any]:
        """Return a task whose prompt is no template."""
        others = {name: value for name, value in task.items() if name != "prompt"}
        return {**replace_texts(others, rendered), "prompt": task["prompt"]}

    def _reply_to(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the place of the comment at the end, if the rule says `reply` and the event has such a place."""
        place = place_of(event) if self.rule.reply is not None else None
        if place is None:
            return {}
        kind = "pull_request" if place.pull_request else "issue"
        about = {"repository": place.repository, "kind": kind, "number": place.number}
        return {"reply_to": {"credential": self.rule.credential, **about}}


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and pattern.endswith("*") and value.startswith(pattern[:-1])


@dataclass
class _Known:
    """The rules of a project by key, each with the revision of its entry, as they were at `revision` of the version."""

    revision: int = 0
    compiled: dict[str, tuple[int, CompiledRule]] = field(default_factory=dict)
    rules: Sequence[CompiledRule] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RuleBook:
    """The rules of all projects. Those of one project are compiled together, when one has changed."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[str, _Known] = {}

    async def rules(self, project: str) -> Sequence[CompiledRule]:
        """Return the rules of a project by name."""
        version = await self._bucket.get(f"version.{project}")
        if version is None:
            return ()
        known = self._known.pop(project, None) or _Known()
        self._known[project] = known
        while len(self._known) > _PROJECTS:
            del self._known[next(iter(self._known))]
        async with known.lock:
            if known.revision != version.revision:
                await self._compile(known, project)
                known.revision = version.revision
            return known.rules

    async def _compile(self, known: _Known, project: str) -> None:
        """Compile the rules that have changed; others run after each, because one takes up to half a second."""
        found: dict[str, tuple[int, CompiledRule]] = {}
        for entry in [entry async for entry in self._bucket.entries(f"rule.{project}.*")]:
            before = known.compiled.get(entry.key)
            if before is not None and before[0] == entry.revision:
                found[entry.key] = before
                continue
            found[entry.key] = (entry.revision, _compiled(project, entry.key, entry.value))
            await asyncio.sleep(0)
        known.compiled = found
        known.rules = sorted((rule for _, rule in found.values()), key=lambda one: one.rule.name)
        share([rule.condition for rule in known.rules if rule.condition is not None])

    async def put(self, rule: Rule, project: str) -> bool:
        """Store a rule; return whether it is new. Raises Conflict if it was changed at the same time."""
        key = f"rule.{project}.{rule.name}"
        earlier = await self._bucket.get(key)
        value = rule.model_dump_json(exclude_unset=True).encode()
        await self._bucket.update(key, value, earlier.revision if earlier else 0)
        await self._changed(project)
        return earlier is None

    async def delete(self, project: str, name: str) -> bool:
        """Remove a rule and its state; return whether it existed."""
        key = f"rule.{project}.{name}"
        if await self._bucket.get(key) is None:
            return False
        await self._bucket.delete(key)
        for state in ("state", "poll"):
            await self._bucket.delete(f"{state}.{project}.{name}")
        await self._changed(project)
        return True

    async def _changed(self, project: str) -> None:
        key = f"version.{project}"
        known = await self._bucket.get(key)
        try:
            await self._bucket.update(key, b"1", known.revision if known else 0)
        except Conflict:
            return  # another change came after this one: its version covers both


def _compiled(project: str, key: str, value: bytes) -> CompiledRule:
    try:
        return CompiledRule(Rule.model_validate_json(value), project)
    except ValidationError as error:
        broken = Rule.model_construct(name=key.rpartition(".")[2], on=On.model_construct(type="*"), task={})
        made = CompiledRule(broken, project)
        made.broken = f"cannot be read: {error.error_count()} errors"
        return made
