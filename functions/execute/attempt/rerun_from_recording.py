"""Recording and rerun of an attempt: under which head it is recorded, and what a rerun takes from its original."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ocf.events.command_payloads import EmptyWorkspace, Execute, GitWorkspace, SnapshotWorkspace, Workspace
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import RerunResult
from ocf.events.input_manifest import INPUT_CONVERSATION, ExecutionInput
from ocf.events.lifecycle import Reason, State, Step
from ocf.events.optional_task_fields import RemoteMcp, ResolvedRerun
from ocf.events.ports import ObjectStore
from ocf.events.redaction import Redactor
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.core.object_deletion import read_input, stored_tree
from ocf.functions.core.task_limits import effective_recording
from ocf.functions.execute.agent.warm_server import WarmServer
from ocf.functions.execute.attempt.artifacts import CONVERSATION
from ocf.functions.execute.attempt.stop_signal import StopReason, failed
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.models.catalog import ModelFacts
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import VERSION, Head, Inputs
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.recording.playback import Answer, Playback
from ocf.functions.recording.recorded_calls_reader import InvalidRecording, Recording, load
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.workspace import InvalidWorkspace

_SOURCE: TypeAdapter[Workspace] = TypeAdapter(Workspace)
#: Nothing listens there, and nothing is sent there: every call is answered by the recording.
_NOWHERE = "http://recording.invalid/v1"


def open_model(
    deps: Dependencies,
    task: Execute,
    attempt: int,
    server: WarmServer,
    target: ModelTarget,
    redactor: Redactor,
    inputs: Inputs,
    rerun: Rerun | None,
) -> tuple[Recorder | None, Player | None]:
    """Return the recorder of an attempt, unless task or project want none, and the player of a rerun.

    Args:
        deps: the dependencies.
        task: the task.
        attempt: its number.
        server: its server.
        target: its model.
        redactor: of its secrets.
        inputs: what it begins from.
        rerun: the original, if it is a rerun.
    """
    player = None if rerun is None else rerun.player(server, redactor)
    holds = effective_recording(task, deps.settings)
    if holds == "off":
        return None, player
    head = Head(
        version=VERSION,
        attempt=attempt,
        key=secrets.token_hex(32) if rerun is None else rerun.head.key,
        holds=holds,
        agent=f"opencode {server.server.version}",
        model=described(target),
        workspace=str(server.directory),
        home=str(server.root / "home"),
        rerun_of=None if rerun is None else rerun.asked.of,
    )
    places = paths_of(head.workspace, head.home)
    table = PartTable(head.key, redactor, places) if player is None else player.playback.table
    recorder = Recorder(deps.store, ExecutionRef(task.project_id, task.execution_id), head, table, deps.clock)
    recorder.note_inputs(inputs)
    return recorder, player


def paths_of(directory: str, home: str) -> tuple[tuple[str, str], ...]:
    """Return the paths of an attempt that differ between two runs, with what stands for them."""
    return ((directory, "<workspace>"), (home, "<home>"))


def described(target: ModelTarget) -> dict[str, object]:
    """Return the facts of a model that the agent gets, for a rerun without the operator's models."""
    facts = target.facts
    return {
        "provider": target.provider,
        "model": target.model,
        "model_version": target.model_version,
        "kind": target.kind,
        "package": target.package,
        "offline": target.offline,
        "facts": None if facts is None else json.loads(json.dumps(dataclasses.asdict(facts))),
    }


def inputs_of(source: WorkspaceInput, prepared: workspace.Prepared, session: Session | None) -> Inputs:
    """Return what an attempt begins from."""
    saved = session.saved if session is not None else None
    conversation = session.from_execution_id if session is not None else None
    if saved is not None:
        # `<execution>.<random>.conversation.json`: the workspace may be of a later one.
        conversation = saved.conversation.name.partition(".")[0]
    return Inputs(
        source=source.label,
        workspace=source.source.model_dump(mode="json", exclude_defaults=True, exclude={"token"}),
        commit=source.base_commit(prepared),
        workspace_of=saved.execution_id if saved is not None and source.continued else source.snapshot_of,
        conversation_of=conversation,
    )


class Rerun:
    """The original of a rerun.

    Raises:
        InvalidRecording: a call that the rerun needs is not recorded.
    """

    def __init__(
        self, asked: ResolvedRerun, recording: Recording, original: Record, given: ExecutionInput | None
    ) -> None:
        self._given = given
        self.asked = asked
        self.recording = recording
        self._original = original
        self._player: Player | None = None
        until = asked.until
        if missing := [one for one in recording.missing if until is None or one <= until]:
            named = ", ".join(map(str, missing[:10]))
            why = next((gap.why for gap in recording.gaps), "S3 was away")
            text = f"call {named} of execution {asked.of} is not recorded ({why})"
            raise InvalidRecording(f"{text}; ask for a rerun until call {missing[0] - 1}")

    @property
    def head(self) -> Head:
        """Return the head of the recording."""
        return self.recording.head

    @property
    def result(self) -> RerunResult:
        """Return what the recording has answered so far."""
        return self._player.playback.result if self._player is not None else RerunResult(of=self.asked.of)

    def target(self, task: Execute, configured: Callable[[Execute], ModelTarget]) -> ModelTarget:
        """Return the model: the configured one if it may be called, else the one that the recording describes."""
        return configured(task) if self.asked.live else recorded_target(task, self.head.model)

    def source(self, task: Execute) -> tuple[Execute, ExecutionInput | None]:
        """Return the task with the workspace that the original found, and its stored files unless they are gone.

        Raises:
            InvalidWorkspace: both are gone.
        """
        if self._given is not None:
            return task, self._given
        if self._original.imported_from is not None:
            # A stranger's description of a source must not have this worker read or fetch anything.
            raise InvalidWorkspace(f"the bundle of execution {self.asked.of} has no files to begin from")
        inputs, source = self.recording.inputs, task.workspace
        if inputs.workspace is not None and isinstance(source, EmptyWorkspace):
            try:
                source = _SOURCE.validate_python(inputs.workspace)  # of its session
            except ValidationError:
                raise InvalidRecording("the source of its workspace cannot be read") from None
        if inputs.workspace_of is not None:
            keep = source.keep_ignored
            source = SnapshotWorkspace(source="snapshot", execution_id=inputs.workspace_of, keep_ignored=keep)
        elif inputs.source == "session":
            raise InvalidWorkspace("workspace: the execution that left it in the session was deleted")
        elif isinstance(source, GitWorkspace) and inputs.commit is not None:
            source = source.model_copy(update={"ref": inputs.commit})
        return task.model_copy(update={"workspace": source}), None

    async def conversation_key(self, store: ObjectStore, project: str) -> str | None:
        """Return the object of the conversation that the original continued; None without one.

        Raises:
            InvalidWorkspace: it is gone.
        """
        execution = self.recording.inputs.conversation_of
        if execution is None:
            return None
        own = ExecutionRef(project, self.asked.of).object_key(INPUT_CONVERSATION)
        if await store.head(own) is not None:
            return own
        key = ExecutionRef(project, execution).object_key(CONVERSATION)
        if await store.head(key) is None:
            raise InvalidWorkspace(f"the conversation of execution {execution}, which it continues, is gone")
        return key

    def described(self, task: Execute) -> str:
        """Return what a reader of the output must know."""
        count = len(self.recording.calls)
        text = f"playing {count} recorded model call{'s' * (count != 1)} of execution {self.asked.of}"
        if self._given is None:
            text += "; its files are not stored, so they come from its source again"
        marked = sum(call.redacted for call in self.recording.calls)
        if marked:
            text += f"; secrets were taken out of {marked} of them, so what follows from these may differ"
        routes = [f"secrets.{name}" for name in task.secrets]
        routes += [f"mcp.{name}" for name, server in task.mcp.items() if isinstance(server, RemoteMcp)]
        if routes:
            text += f"; the recording answers for {', '.join(routes)}, too"
        if self.asked.left_out:
            text += f"; a rerun does not get {', '.join(self.asked.left_out)}"
        return text

    def player(self, server: WarmServer, redactor: Redactor) -> Player:
        """Return the player for the model proxy of `server`."""
        here = (str(server.directory), str(server.root / "home"))
        head = self.head
        table = PartTable(head.key, redactor, (*paths_of(*here), *paths_of(head.workspace, head.home)))
        complete = self._original.state is State.COMPLETED
        playback = Playback(self.recording, self.asked, table, complete=complete)
        moved = [(was, now) for was, now in zip((head.workspace, head.home), here, strict=True) if was]
        self._player = Player(playback, moved, complete=complete)
        return self._player

    def stop_reason(self, answer: Answer) -> StopReason:
        """Return the end of the rerun: that of the original, or after the last call that was asked for."""
        original, text = self._original, answer.why
        if answer.end == "until":
            return StopReason(Step.CANCEL, text, requested_by="rerun")
        words = f"{original.message or original.state.value} ({text}, as execution {original.execution_id} did)"
        match original.state:
            case State.CANCELLED:
                return StopReason(Step.CANCEL, words, requested_by="rerun")
            case State.TIMED_OUT:
                return StopReason(Step.TIME_OUT, words)
            case _:
                return failed(original.reason or Reason.AGENT_ERROR, words)


async def open_rerun(deps: Dependencies, task: Execute) -> Rerun | None:
    """Return the original of a task that is a rerun; None for another task.

    Raises:
        InvalidRecording: it has no recording that can be used.
        Unavailable: the store does not answer.
    """
    if task.rerun is None:
        return None
    original = await deps.records.find(task.project_id, task.rerun.of)
    if original is None:
        raise InvalidRecording(f"execution {task.rerun.of} is gone")
    ref = ExecutionRef(task.project_id, task.rerun.of)
    recording, given = await load(deps.store, ref), await read_input(deps.store, ref)
    if await stored_tree(deps.store, ref.project, given) is None:
        given = None  # its files were too many, or are gone: from the source again
    return Rerun(task.rerun, recording, original, given)


def recorded_target(task: Execute, model: dict[str, Any]) -> ModelTarget:
    """Return the model as the recording describes it, with the task's settings, without an address and a key.

    Raises:
        InvalidRecording: the description cannot be used.
    """
    config = task.model
    try:
        facts = model.get("facts")
        if facts is not None:
            lists = {name: tuple(facts[name]) for name in ("input", "variants") if facts.get(name) is not None}
            facts = ModelFacts(**{**facts, **lists, "prices": None})
        return ModelTarget(
            provider=str(model["provider"]),
            model=str(model["model"]),
            kind=model["kind"] if model["kind"] in ("openai", "anthropic", "google") else "openai",
            base_url=_NOWHERE,
            model_version=model.get("model_version"),
            temperature=config.temperature if config else None,
            max_tokens=config.max_tokens if config else None,
            enabled_tools=None if config is None or config.enabled_tools is None else tuple(config.enabled_tools),
            system_prompt=config.system_prompt if config else None,
            offline=bool(model.get("offline")),
            facts=facts,
            package=model.get("package"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidRecording(f"its description of the model cannot be used ({type(error).__name__})") from None
