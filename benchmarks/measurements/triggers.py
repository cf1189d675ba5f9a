"""From an event to a task: what rules cost the trigger function, and a webhook beside the call that it stands for."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx2

from benchmarks.measurement import Options, Row, Target
from ocf.events.envelope import Event, decode
from ocf.functions.rules.rule import Rule
from ocf.functions.runtime.function import Function
from ocf.functions.trigger import handler
from tests.support.handlers import post
from tests.support.parts import PROJECT, bench
from tests.support.stack import Project, running_stack
from tests.support.webhooks import example, github

RULES = 200
EVENTS = 100
TYPE = "com.github.issues.labeled"


async def nothing(event: Event) -> None:
    """Do nothing with an event."""


async def _rate(function: Function, event: Event) -> float:
    """Events per second of processor time."""
    began = time.process_time()
    for _ in range(EVENTS):
        assert (await function.respond(post(event))).status_code == 200
    return EVENTS / (time.process_time() - began)


async def rules(options: Options) -> Row:
    """Two hundred rules of the event's type, each with a condition, on GitHub's published payload of 13 kB."""
    b = bench()
    for number in range(RULES):
        on = {"type": TYPE, "where": f'event.data.label.name == "label-{number}" && event.data.action == "labeled"'}
        rule = Rule.model_validate({"name": f"rule-{number}", "on": on, "task": {"prompt": "go"}})
        await b.deps.rulebook.put(rule, PROJECT)
    ours, baseline = Function(handler.trigger), Function(nothing)
    await ours.start(b.deps)
    await baseline.start(b.deps)
    body = json.dumps(example("issues", "labeled")).encode()
    event = Event(TYPE, "/bench", "1", b.deps.clock.now(), body, extensions={"natssubject": f"ocf.in.{PROJECT}.bench"})
    for function in (ours, baseline):
        await _rate(function, event)
    pairs = [(await _rate(ours, event), await _rate(baseline, event)) for _ in range(options.of(10))]
    return Row(
        f"trigger: {RULES} rules of the event's type, each with a condition",
        "events/s of processor time",
        [one for one, _ in pairs],
        [other for _, other in pairs],
        "a function that does nothing",
        Target("ratio", 0.3, at_least=True),
        "each request with decoding and look-up of the rules' version; none matches",
    )


async def accepted(options: Options) -> Row:
    """A signed webhook and the same task over REST, in turns: seconds to the fact `accepted`."""
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_stack(Path(folder)) as stack:
        async with (
            stack.project() as project,
            httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=60) as client,
        ):
            task = {"prompt": "hello"}
            on = {"type": TYPE, "actors": {"permission": "any"}}
            rule = {"name": "bench", "project_id": project.name, "on": on, "task": task}
            (await client.post("/triggers", json=rule)).raise_for_status()
            hook = (await client.post("/hooks", json={"kind": "github", "project_id": project.name})).json()
            payload = example("issues", "labeled")
            found = []
            for number in range(options.of(12) + 1):
                # The id of a forge's event is that of its change (ADR 0020): another time is another change.
                issue = {**payload["issue"], "updated_at": f"2026-01-01T00:00:{number:02}Z"}
                headers, body = github("issues", {**payload, "issue": issue}, hook["secret"])
                webhook = await _until_accepted(project, client, hook["url"], body, headers)
                call = json.dumps({**task, "project_id": project.name}).encode()
                direct = await _until_accepted(
                    project, client, "/tasks/execute", call, {"Content-Type": "application/json"}
                )
                found.append((webhook, direct))
    return Row(
        "webhook to `accepted`",
        "ms",
        [one for one, _ in found[1:]],
        [other for _, other in found[1:]],
        "POST /tasks/execute to `accepted`",
        Target("ratio", 2.5),
        "two hops more: inbox and trigger function",
    )


async def _until_accepted(
    project: Project, client: httpx2.AsyncClient, url: str, body: bytes, headers: dict[str, str]
) -> float:
    async with asyncio.timeout(120), project.bus.listen(f"ocf.evt.{project.name}.*.accepted") as facts:
        began = time.perf_counter()
        answer = await client.post(url, content=body, headers=headers)
        answer.raise_for_status()
        fact = await anext(facts)
        took = 1000 * (time.perf_counter() - began)
    execution = decode(fact.headers, fact.data).subject
    assert execution is not None
    await project.ended(execution, 120)
    return took


async def measure(options: Options) -> list[Row]:
    """Both figures."""
    return [await rules(options), await accepted(options)]
