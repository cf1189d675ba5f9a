"""Import of a stored conversation: OpenCode's own import, run in the server's home and sandbox."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from ocf.events import untrusted_json
from ocf.events.errors import InvalidEvent
from ocf.events.lifecycle import Reason
from ocf.events.untrusted_json import parse_json
from ocf.functions.execute.agent import config
from ocf.functions.execute.agent.server import AgentServer, policy, reached
from ocf.functions.execute.sandbox.agent_host_client import Owner
from ocf.functions.execute.sandbox.policy import SandboxPolicy
from ocf.functions.execute.sandbox.process import AgentFailed, ProcessSpec, start_process
from ocf.functions.workspace.threads import in_thread

_SECONDS = 60.0
_FILE = "conversation.json"


def _policy(server: AgentServer) -> SandboxPolicy | None:
    assert server.spec.binary is not None
    same = policy(server.spec, server.spec.binary, 0)
    return None if same is None else replace(same, bind_port=None)


def _write(path: Path, conversation: bytes, user: Owner | None) -> None:
    """Write a new file; an existing one, a link say, was put there by a plugin of a shared workspace."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(conversation)
        if user is not None and user.ids is not None:
            os.fchown(file.fileno(), *user.ids)
        elif user is not None:
            os.fchmod(file.fileno(), 0o640)  # the agent's container has the same group


def _session(conversation: bytes) -> str:
    """Return OpenCode's id of the conversation."""
    try:
        return str(
            parse_json(conversation, untrusted_json.STORED_CONVERSATION, "the session's conversation")["info"]["id"]
        )
    except (InvalidEvent, KeyError, TypeError):
        raise AgentFailed(Reason.AGENT_ERROR, "the session's conversation is damaged") from None


async def import_conversation(server: AgentServer, conversation: bytes) -> str:
    """Import what `Agent.export` returned earlier, on any machine; return OpenCode's session id.

    Raises:
        AgentFailed: the conversation is damaged, or OpenCode did not accept it.
    """
    spec = server.spec
    session = await in_thread(lambda _: _session(conversation))
    path = spec.home / _FILE
    await in_thread(lambda _: _write(path, conversation, spec.user))
    assert spec.binary is not None
    process = await start_process(
        ProcessSpec(
            argv=(str(spec.binary), "import", str(path)),
            cwd=spec.directory,
            env=config.environment(spec, ""),
            sandbox=_policy(server),
            max_processes=spec.max_processes,
            max_memory_bytes=spec.max_memory_bytes,
            user=spec.user,
            paths=reached(spec, spec.binary),
        )
    )
    try:
        async with asyncio.timeout(_SECONDS):
            code = await process.exited()
    except TimeoutError:
        code = -1
    finally:
        await process.stop(0.0)
        path.unlink(missing_ok=True)
    if code != 0:
        tail = tuple(process.stderr_tail)
        raise AgentFailed(Reason.AGENT_ERROR, f"OpenCode did not import the session's conversation ({code})", tail)
    return session
