"""The gateway that a verb talks to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ocf.cli import context_file
from ocf.cli.common import (
    DEFAULT_PROJECT,
    NAMED_CONTEXT,
    NAMED_DIRECTORY,
    NAMED_GATEWAY,
    checked_token,
    directory,
    printable,
)
from ocf.events.client.gateway import Address, connect
from ocf.events.client.gateway_retry import CallFailed, Unreachable
from ocf.stack.state import Running, running, running_pid

GATEWAY, CONTEXT, TOKEN = "OCF_GATEWAY", "OCF_CONTEXT", "OCF_TOKEN"


class NoStack(Unreachable):
    """No stack runs in the data directory."""


def where(project: str | None, data_dir: Path | None = None) -> Address:
    """Return the gateway that is named, the first of these.

    --gateway, --context or --data-dir; OCF_GATEWAY; OCF_CONTEXT; OCF_DATA_DIR; the current context; `.ocf`. The token
    is that of the context, else OCF_TOKEN. The project is `project`, else that of the context, else `default`.

    Raises:
        CallFailed: Two options are given, or the URL, the context or the token is invalid.
        Unreachable: No stack runs in the directory, or it is not ready.
    """
    url, context, data_dir = NAMED_GATEWAY.get(), NAMED_CONTEXT.get(), data_dir or NAMED_DIRECTORY.get()
    named = [name for name, value in (("--gateway", url), ("--context", context), ("--data-dir", data_dir)) if value]
    if len(named) > 1:
        raise CallFailed(f"{' and '.join(named)} exclude each other: each names a gateway")
    if url:
        return _elsewhere(url, "--gateway", project)
    if not named and (url := os.environ.get(GATEWAY)):
        return _elsewhere(url, GATEWAY, project)
    if not named:
        context = os.environ.get(CONTEXT)
    if not named and not context and not os.environ.get("OCF_DATA_DIR"):
        context = context_file.load().current
    if context:
        found = context_file.load().named(context)
        token = found.token(context) or _token()
        origin, project = f"named by context {context}", project or found.project or DEFAULT_PROJECT
        return Address(context_file.checked_url(found.gateway, origin), token, project, None, origin)
    place = directory(data_dir)
    stack = _stack(place)
    return Address(stack.gateway, _token(), project or DEFAULT_PROJECT, stack.instance, f"of the stack in {place}")


def _elsewhere(url: str, source: str, project: str | None) -> Address:
    return Address(
        context_file.checked_url(url, source), _token(), project or DEFAULT_PROJECT, None, f"named by {source}"
    )


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    return checked_token(token, TOKEN) if token else None


def _stack(place: Path) -> Running:
    stack, pid = running(place), running_pid(place)
    if stack is None and pid is not None:
        raise Unreachable(f"the stack in {place} (pid {pid}) is not ready; its log files are in {place / 'logs'}")
    if stack is None:
        raise NoStack(
            f"no stack runs in {place}: `ocf up --data-dir {place}` starts one, --data-dir names another directory, "
            "--gateway URL, OCF_GATEWAY or `ocf context add` a gateway elsewhere"
        )
    return stack


async def answering_stack(place: Path) -> Running:
    """Return the stack of a data directory, once its gateway has confirmed its identity.

    Raises:
        Unreachable: there is none, it is not ready, or another server answers on its port.
    """
    stack = _stack(place)
    async with connect(lambda: Address(stack.gateway, instance=stack.instance)):
        return stack


def report(line: str) -> None:
    """Print a line about the connection on stderr."""
    sys.stderr.write(f"ocf: {printable(line)}\n")
    sys.stderr.flush()
