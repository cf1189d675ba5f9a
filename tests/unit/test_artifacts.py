"""What a run leaves: its artifacts, and the state of its session, which nobody else's end may overwrite or lose."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ocf.events.base_model import Sealed
from ocf.events.command_payloads import EmptyWorkspace, Execute, GitWorkspace, SessionCreate, SharedWorkspace
from ocf.events.errors import SealError, Unavailable
from ocf.events.execution_ref import SessionRef
from ocf.events.lifecycle import Reason
from ocf.events.output import Draft
from ocf.events.redaction import Redactor
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.attempt.artifacts import ArtifactWriter
from ocf.functions.execute.attempt.outcome import stop_reason_of
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from tests.support.clock import ManualClock
from tests.support.handlers import session, submit
from tests.support.parts import PROJECT, Bench, bench

TALK: dict[str, object] = {"info": {"id": "ses_1"}, "messages": []}


@dataclass
class Hold:
    """A lease that is lost as soon as it was asked for that many times."""

    sure_for: int = 100
    held: bool = True

    def invalidate(self) -> None:
        """Nobody else writes."""

    async def wait_until_held(self) -> bool:
        sure, self.sure_for = self.held, self.sure_for - 1
        self.held = self.sure_for > 0
        return sure


@dataclass
class Turns:
    """Turns of one session, and what is kept of each."""

    b: Bench
    id_: str
    folder: Path
    said: list[Draft] = field(default_factory=list)

    async def begin(self) -> str:
        """A further turn; it has its turn when those before have ended."""
        execution = str(uuid.uuid4())
        await submit(self.b.deps, self.b.submit(execution, session_id=self.id_))
        return execution

    def task(self, execution: str, **more: Any) -> Execute:
        ids = {"execution_id": execution, "project_id": PROJECT, "session_id": self.id_}
        return Execute.model_validate({**ids, "prompt": "p", "submitted_at": self.b.deps.clock.now(), **more})

    async def keep(
        self, execution: str, talk: dict[str, object] | None, hold: Hold | None = None, *, keep_ignored: bool = False
    ) -> str:
        """End a turn that left a file `work` with its own id; what was said of it."""
        top = self.folder / uuid.uuid4().hex
        prepared = await workspace.prepare(EmptyWorkspace(), top / "w", workspace.Sources(), private=top / "p")
        (top / "w" / "work").write_text(execution)
        (top / "w" / ".gitignore").write_text("built")
        (top / "w" / "built").write_text("from the work")
        (top / "w" / "out").symlink_to("/usr/bin/python3")
        self.said.clear()
        context = cast(Any, SimpleNamespace(deps=self.b.deps))
        artifact_writer = ArtifactWriter(context, self.task(execution), top / "a", hold or Hold())
        await artifact_writer.store(prepared, talk, self._emit, 10.0, keep_ignored=keep_ignored)
        return "\n".join(draft.data for draft in self.said)

    async def _emit(self, draft: Draft) -> None:
        self.said.append(draft)

    async def over(self, execution: str) -> None:
        await Sessions(self.b.deps.sessions, self.b.deps.clock).leave(PROJECT, self.id_, execution)

    async def record(self) -> Session:
        found = await Sessions(self.b.deps.sessions, self.b.deps.clock).get(PROJECT, self.id_)
        assert found is not None
        return found

    async def unpacked(self) -> Path:
        """The workspace that is saved now."""
        saved = (await self.record()).saved
        assert saved is not None
        assert saved.workspace is not None
        archive, back = self.folder / f"{uuid.uuid4()}.tar.zst", self.folder / uuid.uuid4().hex
        archive.write_bytes(self.b.store.objects[f"{SessionRef(PROJECT, self.id_).prefix}/{saved.workspace.name}"])
        await workspace.unpack(archive, back)
        return back

    def objects(self) -> set[str]:
        prefix = SessionRef(PROJECT, self.id_).prefix + "/"
        return {key.removeprefix(prefix) for key in self.b.store.objects if key.startswith(prefix)}

    async def pointed(self) -> set[str]:
        saved = (await self.record()).saved
        assert saved is not None
        assert saved.workspace is not None
        return {saved.conversation.name, saved.workspace.name}


@pytest.fixture
async def turns(tmp_path: Path) -> Turns:
    b, id_ = bench(ManualClock(), WORKSPACE_DIR=tmp_path / "volume"), str(uuid.uuid4())
    (tmp_path / "volume").mkdir()
    data = SessionCreate(project_id=PROJECT, session_id=id_)
    await session(b.deps, b.command("dev.ocf.session.create.v1", data))
    return Turns(b, id_, tmp_path)


@pytest.mark.parametrize("kept", [False, True], ids=["write lost", "answer lost"])
async def test_a_turn_that_ends_while_nats_is_away_is_saved_when_it_is_back(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Its work is not lost, and the objects of the turn before go, whether or not the first try was kept."""
    first = await turns.begin()
    await turns.keep(first, TALK)
    await turns.over(first)
    second = await turns.begin()
    bucket = turns.b.deps.sessions
    update = bucket.update

    async def away(key: str, value: bytes, revision: int, **more: Any) -> int:
        monkeypatch.undo()
        if kept:
            await update(key, value, revision, **more)
        raise Unavailable("NATS is away")

    monkeypatch.setattr(bucket, "update", away)
    keeping = asyncio.create_task(turns.keep(second, TALK))
    clock = cast(ManualClock, turns.b.deps.clock)
    while not keeping.done():
        await asyncio.sleep(0.01)
        if clock.sleepers:
            await clock.advance(1)
    assert "could not be stored" not in await keeping
    saved = (await turns.record()).saved
    assert saved is not None
    assert saved.execution_id == second
    assert turns.objects() == await turns.pointed()


async def test_a_turn_is_saved_and_the_one_before_goes(turns: Turns) -> None:
    """The record points to the newest turn; nothing else is left."""
    for _ in range(2):
        execution = await turns.begin()
        assert "not in the saved workspace: out (it is a link" in await turns.keep(execution, TALK)
        await turns.over(execution)
    saved = (await turns.record()).saved
    assert saved is not None
    assert (saved.execution_id, saved.conversation_id) == (execution, "ses_1")
    assert turns.objects() == await turns.pointed()


async def test_without_a_conversation_the_files_are_new_and_that_is_said(turns: Turns) -> None:
    """OpenCode died: the session goes on from the new workspace and the conversation of the turn before."""
    first, second = await turns.begin(), await turns.begin()
    await turns.keep(first, TALK)
    await turns.over(first)
    talk = (await turns.pointed()).copy()
    assert "continues from the previous one" in await turns.keep(second, None)
    saved = (await turns.record()).saved
    assert saved is not None
    assert saved.conversation.name in talk
    assert turns.objects() == await turns.pointed()
    back = await turns.unpacked()
    assert (back / "work").read_text() == second
    assert not (back / "built").exists()


async def test_a_first_turn_without_a_conversation_is_said_to_be_lost(turns: Turns) -> None:
    """There is nothing to go on from: the session stays empty, and the output says so."""
    said = await turns.keep(await turns.begin(), None)
    assert "the session keeps its previous state: OpenCode exported no conversation" in said
    assert [draft.detail["reason"] for draft in turns.said if draft.detail] == ["left_out", "not_stored"]
    assert (await turns.record()).saved is None
    assert turns.objects() == set()


async def test_a_turn_that_is_over_does_not_overwrite_the_next(turns: Turns) -> None:
    """It was taken for lost, and the next turn has saved: the record and its objects stay."""
    late, next_ = await turns.begin(), await turns.begin()
    await turns.over(late)
    await turns.keep(next_, TALK)
    kept = await turns.pointed()
    assert "this execution has left its queue" in await turns.keep(late, TALK)
    assert await turns.pointed() == kept == turns.objects()


async def test_an_attempt_that_lost_the_execution_points_to_nothing(turns: Turns) -> None:
    """Between its last upload and the record the lease is gone: what another attempt saved stays."""
    execution = await turns.begin()
    await turns.keep(execution, TALK)
    kept = await turns.pointed()
    assert "another worker has it" in await turns.keep(execution, TALK, Hold(sure_for=5))
    assert await turns.pointed() == kept


class Opening:
    """A shop that opens sealed secrets, in so far as `WorkspaceInput` needs one."""

    def __init__(self, b: Bench) -> None:
        self.deps = b.deps

    def opened(self, sealed: Sealed, project: str) -> Any:
        return SimpleNamespace(get_secret_value=lambda: f"{sealed.ciphertext} of {project}")


def workspace_input(turns: Turns, task: Execute, found: Session) -> WorkspaceInput:
    return WorkspaceInput(cast(Any, Opening(turns.b)), task, found, turns.folder / uuid.uuid4().hex)


async def test_a_sessions_repository_is_cloned_with_its_token(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task names no workspace: source and token are the session's, and the token is kept out of the output."""
    got: dict[str, Any] = {}

    async def prepare(source: Any, target: Path, sources: Any, **named: Any) -> None:
        got.update(named, source=source)

    monkeypatch.setattr(workspace, "prepare", prepare)
    sealed = Sealed(kid="k", nonce="n", ciphertext="git-token")
    source = GitWorkspace(source="git", url="https://example.com/x.git", token=sealed)
    found = (await turns.record()).model_copy(update={"workspace": source})
    redactor = Redactor()
    one = workspace_input(turns, turns.task(await turns.begin()), found)
    await one.prepare(turns.folder / "w", redactor.add, stays)
    assert (got["source"], got["token"], one.label) == (source, "git-token of default", "git")
    assert redactor("the git-token of default") == "the [redacted]"


async def test_a_token_that_does_not_open_is_the_workspaces_fault(turns: Turns) -> None:
    """Sealed with a key that is gone: `invalid_workspace`, and the field is named; the model has no part in it."""
    sealed = Sealed(kid="k", nonce="n", ciphertext="git-token")
    source = GitWorkspace(source="git", url="https://example.com/x.git", token=sealed)
    task = turns.task(str(uuid.uuid4()), workspace=source)
    context = SimpleNamespace(deps=turns.b.deps, opened=_does_not_open)
    one = WorkspaceInput(cast(Any, context), task, None, turns.folder / "own")
    with pytest.raises(workspace.InvalidWorkspace, match=r"^workspace\.token: sealed with another key$") as caught:
        await one.prepare(turns.folder / "w", Redactor().add, stays)
    assert stop_reason_of(caught.value).reason is Reason.INVALID_WORKSPACE


async def stays(_: Path) -> None:
    """The files keep the owner that they have."""


def _does_not_open(*_: object) -> None:
    raise SealError("sealed with another key")


async def test_a_shared_session_works_in_place_on_every_turn(turns: Turns) -> None:
    """Also after a turn was saved: the volume is the truth, not the archive."""
    execution = await turns.begin()
    await turns.keep(execution, TALK)
    found = (await turns.record()).model_copy(update={"workspace": SharedWorkspace(source="shared", path="team")})
    one = workspace_input(turns, turns.task(str(uuid.uuid4())), found)
    assert one.shared
    prepared = await one.prepare(turns.folder / "unused", Redactor().add, stays)
    assert prepared.directory == (turns.folder / "volume" / "team").resolve()


@pytest.mark.parametrize("asks", ["task", "session", "nobody"])
async def test_ignored_files_are_kept_on_request(tmp_path: Path, asks: str) -> None:
    """By the turn, or by the session for all of its turns."""
    b, id_ = bench(ManualClock()), str(uuid.uuid4())
    source = EmptyWorkspace(keep_ignored=asks == "session")
    data = SessionCreate(project_id=PROJECT, session_id=id_, workspace=source)
    await session(b.deps, b.command("dev.ocf.session.create.v1", data))
    turns = Turns(b, id_, tmp_path)
    execution = await turns.begin()
    task = turns.task(execution, workspace=EmptyWorkspace(keep_ignored=asks == "task"))
    asked = workspace_input(turns, task, await turns.record()).keep_ignored
    assert asked is (asks != "nobody")
    await turns.keep(execution, TALK, keep_ignored=asked)
    assert (await turns.unpacked() / "built").exists() is asked


async def test_a_saved_session_takes_no_other_workspace(turns: Turns) -> None:
    """A turn that names one is refused, at submit where it is known by then, else by the run; a retry is not."""
    execution = await turns.begin()
    await turns.keep(execution, TALK)
    found = await turns.record()
    other = {"workspace": {"source": "git", "url": "https://example.com/x.git"}}
    with pytest.raises(workspace.InvalidWorkspace, match="has one already; leave it out"):
        workspace_input(turns, turns.task(str(uuid.uuid4()), **other), found)
    assert workspace_input(turns, turns.task(execution, **other), found).label == "session"
    late = str(uuid.uuid4())
    await submit(turns.b.deps, turns.b.submit(late, session_id=turns.id_, **other))
    assert await turns.b.said(late) == ["rejected"]
