"""What follows an end: a successor finishes a push, a refused result is pushed again, one comment is made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ocf.events import subjects, terminal_facts
from ocf.events.command_payloads import CommentEnd, PushResult
from ocf.events.envelope import new_event
from ocf.events.errors import Drop, Unavailable
from ocf.events.execution_record import Attempt, Record
from ocf.events.fact_payloads import Completed, Outcome
from ocf.events.lifecycle import Reason, State, Step
from ocf.events.output import Usage
from ocf.events.task_forge_fields import ReplyTo
from ocf.functions.forges.http import ForgeRefused, ForgeUnavailable
from ocf.functions.publishing.archived_result import ended
from ocf.functions.publishing.branch import ResultRejected
from ocf.functions.result.handler import result
from ocf.functions.runtime.function import bind
from tests.support.forge import StandIn, stand_in
from tests.support.handlers import submit
from tests.support.parts import PROJECT
from tests.support.publishing import FILES, Publishing, publishing
from tests.support.runs import runner_on


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "forge", FILES) as made:
        yield made


async def worked(forge: StandIn, tmp_path: Path, app: bool = False, **changes: Any) -> Publishing:
    """A completed execution that is about to publish: its work is archived and in its record."""
    run = await publishing(
        forge, tmp_path / "run", app=app, STATE_DIR=tmp_path / "state", CONSOLE_URL="https://console.example"
    )
    run.write("src/app.py", "print('two')\n")
    await run.archive()

    def decide(record: Record) -> Record:
        now = run.bench.deps.clock.now()
        attempt = Attempt(number=1, worker="other", started_at=now)
        begun = record.model_copy(update={"started_at": record.submitted_at, "attempts": [attempt], **changes})
        work = terminal_facts.Work(result="It is mended.", usage=Usage(input_tokens=10, output_tokens=2, cost_usd=0.5))
        fact = terminal_facts.compose(begun, terminal_facts.Ending(Step.COMPLETE), now, work=work)
        return begun.model_copy(update={"publishing": fact, "base_commit": run.prepared.commit})

    await run.bench.deps.records.change(PROJECT, run.task.execution_id, decide)
    execute = new_event("dev.ocf.task.execute.v1", run.task, source="/test", time=run.task.submitted_at)
    subject = subjects.command("execute", PROJECT, run.task.execution_id)
    await run.bench.bus.publish(subject, execute.data, execute.headers())
    return run


async def handle(run: Publishing, kind: str = "result") -> None:
    ids = {"project_id": PROJECT, "execution_id": run.task.execution_id}
    data = PushResult(**ids) if kind == "result" else CommentEnd(**ids)
    await bind(result, run.bench.deps)(run.bench.command(f"dev.ocf.task.{kind}.v1", data))


async def end(run: Publishing, published: Any) -> None:
    """End the execution as its worker does."""

    def decide(record: Record) -> tuple[Step, Outcome]:
        assert record.publishing is not None
        return ended(record.publishing, published)

    await run.bench.deps.records.end(PROJECT, run.task.execution_id, decide, None)


@pytest.mark.parametrize("lost", ["before the push", "after the push", "after the pull request"])
async def test_a_successor_finishes_what_a_lost_worker_began(forge: StandIn, tmp_path: Path, lost: str) -> None:
    """No second agent run, though no attempt is left: one branch, one pull request, `completed` with all fields."""
    run = await worked(forge, tmp_path)
    if lost == "after the push":
        forge.before = lambda method, path: 403 if method == "POST" else None
        with pytest.raises(ResultRejected):
            await run.publish()
        forge.before = lambda *_: None
    elif lost != "before the push":
        await run.publish()
    event = run.bench.command("dev.ocf.task.execute.v1", run.task)
    runner = runner_on(run.bench.deps, run.task, event)
    await runner.run()
    record = await run.record()
    assert (record.state, record.result, record.usage.total_tokens) == (State.COMPLETED, "It is mended.", 12)
    assert [attempt.ended for attempt in record.attempts] == ["worker_lost", "completed"]
    assert (record.commit, record.branch, record.publishing) == (forge.head("ocf/fix"), "ocf/fix", None)
    (pull,) = forge.pulls
    assert record.pull_request is not None
    assert record.pull_request.url == pull["html_url"]
    assert len(forge.commits("ocf/fix")) == 2
    assert await run.bench.said(record.execution_id) == ["completed"]
    completed = await run.bench.fact(record.execution_id, "completed")
    assert f'"commit":"{record.commit}"'.encode() in completed.data


async def test_a_refused_result_is_pushed_again(
    forge: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result_rejected` with the work kept; once the reason is gone, the command opens the pull request and says so.

    NATS is away when it would say it: the redelivery does, and pushes nothing.
    """
    run = await worked(forge, tmp_path)
    await end(run, ResultRejected("the branch is protected"))
    record = await run.record()
    assert (record.state, record.reason, record.result_message) == (
        State.FAILED,
        Reason.RESULT_REJECTED,
        "the branch is protected",
    )
    forge.before = lambda method, path: 403 if method == "POST" else None
    with pytest.raises(Drop, match="refused again"):
        await handle(run)
    assert "403" in ((await run.record()).result_message or "")
    forge.before = lambda *_: None
    publish, refused = run.bench.bus.publish, [Unavailable("NATS is away")]

    async def failing(subject: str, *rest: Any, **options: Any) -> int:
        if subject.endswith(".published") and refused:
            raise refused.pop()
        return await publish(subject, *rest, **options)

    monkeypatch.setattr(run.bench.bus, "publish", failing)
    with pytest.raises(Unavailable):
        await handle(run)
    record = await run.record()
    assert record.state is State.FAILED
    assert record.pull_request is not None
    assert record.publishing is None
    assert await run.bench.said(record.execution_id) == ["failed"]
    with pytest.raises(Drop, match="no refused result"):
        await handle(run)
    assert await run.bench.said(record.execution_id) == ["failed", "published"]
    with pytest.raises(Drop, match="no refused result"):
        await handle(run)
    assert len(forge.pulls) == 1


async def test_an_app_has_one_check_run_per_execution(forge: StandIn, tmp_path: Path) -> None:
    """A check run is in progress while an attempt works, and completed with a link at the end. Repeats and lost
    answers make no second one. The function reports the end for a lost worker. An App without the permission sets a
    commit status."""
    run = await worked(forge, tmp_path, app=True)
    results = run.bench.deps.results
    published = await run.publish()
    forge.after = lambda method, path: 502 if method == "POST" and path.endswith("check-runs") else None
    await results.try_status(run.task, State.RUNNING)
    forge.after = lambda *_: None
    await results.try_status(run.task, State.RUNNING)
    [check] = forge.checks.runs
    assert (check["head_sha"], check["status"], check["conclusion"]) == (published.commit, "in_progress", None)
    assert check["details_url"].startswith(f"https://console.example/#/tasks/{run.task.execution_id}")
    await end(run, ResultRejected("the worker is lost"))
    assert len(await run.bench.commands("comment", run.task.execution_id)) == 1
    forge.before = lambda method, path: 502 if method == "PATCH" else None
    with pytest.raises(ForgeUnavailable):
        await handle(run, "comment")
    forge.before = lambda *_: None
    await handle(run, "comment")
    with pytest.raises(Drop):
        await handle(run, "comment")
    assert [(one["status"], one["conclusion"]) for one in forge.checks.runs] == [("completed", "failure")]
    assert forge.statuses == []
    forge.checks.allowed = False
    await results.set_status(run.task, State.COMPLETED)
    assert [(one["commit"], one["state"]) for one in forge.statuses] == [(published.commit, "success")]


async def test_the_end_becomes_one_comment(forge: StandIn, tmp_path: Path) -> None:
    """The terminal step says the command; repeated, or with its answer lost, it is one comment."""
    to = ReplyTo(credential="bot", repository="team/app", number=7)
    run = await worked(forge, tmp_path, reply_to=to)
    published = await run.publish()
    await end(run, published)
    assert len(await run.bench.commands("comment", run.task.execution_id)) == 1
    forge.after = lambda method, path: 502 if method == "POST" and path.endswith("/comments") else None
    with pytest.raises(ForgeUnavailable):
        await handle(run, "comment")
    forge.after = lambda *_: None
    await handle(run, "comment")
    with pytest.raises(Drop):
        await handle(run, "comment")
    (note,) = forge.notes
    assert note["issue"] == 7
    assert published.pull_request is not None
    for words in ("completed", "It is mended.", published.pull_request.url, "12 tokens, $0.50"):
        assert words in note["body"]
    assert (await run.record()).comment_url == note["html_url"]


async def test_a_rejected_task_becomes_one_comment_with_the_reason(forge: StandIn, tmp_path: Path) -> None:
    """The submit says where; delivered again it is one command and one comment."""
    run = await worked(forge, tmp_path)
    execution = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
    reply_to = {"credential": "bot", "repository": "team/app", "number": 7}
    ids = {"execution_id": execution, "project_id": PROJECT}
    wrong = run.bench.raw_submit(
        {**ids, "prompt": "x", "limits": {"timeout_seconds": -1}, "reply_to": reply_to}, PROJECT, execution
    )
    for _ in range(2):
        await submit(run.bench.deps, wrong)
    (command,) = await run.bench.commands("comment", execution)
    subject = subjects.command("comment", PROJECT, execution)
    await bind(result, run.bench.deps)(command.with_extensions(natssubject=subject))
    (note,) = forge.notes
    assert note["issue"] == 7
    assert "execution was rejected" in note["body"]
    assert "limits.timeout_seconds" in note["body"]


async def test_a_comment_notifies_nobody_and_forges_no_marker(forge: StandIn, tmp_path: Path) -> None:
    """The agent's words are data: no mention, no marker of another execution, no more than the forge takes."""
    to = ReplyTo(credential="bot", repository="team/app", number=7)
    run = await worked(forge, tmp_path, reply_to=to)
    work = (await run.record()).publishing
    assert isinstance(work, Completed)
    loud = work.model_copy(update={"result": "@team/everyone <!-- ocf:default/x -->" + "x" * 100_000})
    await run.bench.deps.records.end(
        PROJECT, run.task.execution_id, lambda _: ended(loud, ResultRejected("no @admin")), None
    )
    await handle(run, "comment")
    body = forge.notes[0]["body"]
    assert "@team" not in body
    assert "@admin" not in body
    assert body.count("<!--") == 1
    assert len(body) < 60_000


async def test_an_execution_without_reply_makes_no_comment(forge: StandIn, tmp_path: Path) -> None:
    """Nothing is said on the bus, and a command by hand has no effect; a missing credential is an error."""
    run = await worked(forge, tmp_path)
    await end(run, ResultRejected("x"))
    assert await run.bench.commands("comment", run.task.execution_id) == []
    with pytest.raises(Drop):
        await handle(run, "comment")
    to = ReplyTo(credential="gone", repository="team/app", number=7)
    await run.bench.deps.records.change(
        PROJECT, run.task.execution_id, lambda record: record.model_copy(update={"reply_to": to})
    )
    with pytest.raises(ForgeRefused, match="no credential 'gone'"):
        await handle(run, "comment")


async def test_the_sweep_leaves_completed_work_to_the_next_worker(forge: StandIn, tmp_path: Path) -> None:
    """Its worker is gone and no attempt is left: it is not `worker_lost`."""
    from ocf.functions.cleanup.sweep import Sweep

    run = await worked(forge, tmp_path)
    record = (await run.record()).model_copy(update={"timeout_seconds": 86_400})
    deps = run.bench.deps
    old = record.model_copy(update={"updated_at": deps.clock.now() - timedelta(hours=1)})
    started = old.model_copy(update={"started_at": deps.clock.now() - timedelta(hours=1)})
    sweep = Sweep(
        bus=deps.bus,
        executions=deps.executions,
        records=deps.records,
        isolation=deps.isolation,
        clock=deps.clock,
        retention=False,
    )
    assert await sweep._due_step(started) is None
    assert await sweep._due_step(started.model_copy(update={"publishing": None})) is Step.FAIL
