"""Recording of an attempt: whether, under which head, and what the attempt began from."""

from __future__ import annotations

import dataclasses
import json
import secrets

from ocf.events.command_payloads import Execute
from ocf.events.redaction import Redactor
from ocf.events.refs import ExecutionRef
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.execute.agent.warm_server import WarmServer
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.lines import VERSION, Head, Inputs
from ocf.functions.recording.recorder import Recorder
from ocf.functions.runtime.bootstrap import Dependencies


def open_recorder(
    deps: Dependencies,
    task: Execute,
    attempt: int,
    server: WarmServer,
    target: ModelTarget,
    inputs: Inputs,
    redactor: Redactor,
) -> Recorder | None:
    """Return the recorder of an attempt; None where task or project want no recording."""
    holds = task.recording or deps.settings.recording
    if holds == "off":
        return None
    home = str(server.root / "home")
    head = Head(
        version=VERSION,
        attempt=attempt,
        key=secrets.token_hex(32),
        holds=holds,
        agent=f"opencode {server.server.version}",
        model=described(target),
        workspace=str(server.directory),
        home=home,
    )
    table = PartTable(head.key, redactor, paths_of(head))
    recorder = Recorder(deps.store, ExecutionRef(task.project_id, task.execution_id), head, table, deps.clock)
    recorder.note_inputs(inputs)
    return recorder


def paths_of(head: Head) -> tuple[tuple[str, str], ...]:
    """Return the paths of an attempt that differ between two runs, with what stands for them."""
    return ((head.workspace, "<workspace>"), (head.home, "<home>"))


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
        commit=source.base_commit(prepared),
        workspace_of=saved.execution_id if saved is not None and source.continued else source.snapshot_of,
        conversation_of=conversation,
    )
