"""Wait until every execution has ended and is archived, or cancel them first.

    python -m ocf.functions.runtime.drain_executions [--cancel] [--seconds N]

For an installation that goes (docs/how-to/uninstall-from-a-cluster.md). It runs in a dispatcher's pod and needs the
environment of a function. Exit status: 0 when nothing is left, 1 when something is left after N seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from ocf.events.client.nats_client import Client
from ocf.events.errors import Unavailable
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State
from ocf.functions.observability import logs
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.settings.settings import load_or_exit

_POLL = 2.0
_WHY = "the installation is being removed"


def is_left(record: Record) -> bool:
    """Return whether a function still has work for this execution."""
    return not record.terminal or bool(record.outbox) or (record.state is not State.REJECTED and not record.archived)


async def left(deps: Dependencies) -> list[Record]:
    """Return every execution that is left; an unreadable one is nobody's work any more."""
    return [record async for record in deps.records.all() if is_left(record)]


async def finish(deps: Dependencies, *, cancel: bool, seconds: float) -> int:
    """Cancel the open executions if `cancel`; wait for all, and return the number that is left after `seconds`."""
    deadline, told = deps.clock.monotonic() + seconds, ""
    while True:
        found = await left(deps)
        if cancel:
            for record in found:
                if not (record.terminal or record.cancel_requested):
                    client = Client(
                        deps.bus, deps.executions, deps.sessions, project=record.project_id, source="/ocf/finish"
                    )
                    await client.cancel(record.execution_id, why=_WHY)
        text = f"{sum(not one.terminal for one in found)} to end, {sum(one.terminal for one in found)} to archive"
        if text != told:
            told = text
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        if not found or deps.clock.monotonic() >= deadline:
            return len(found)
        await deps.clock.sleep(_POLL)


async def run(arguments: argparse.Namespace) -> int:
    """Finish the executions of this environment; return the exit status."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    try:
        async with asyncio.timeout(arguments.seconds + 60.0), build(settings, "drain-executions") as deps:
            return 1 if await finish(deps, cancel=arguments.cancel, seconds=arguments.seconds) else 0
    except (TimeoutError, Unavailable) as error:
        sys.stderr.write(f"ocf: finish: NATS does not answer ({error or 'timeout'})\n")
        return 1


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="drain_executions", description="Wait until every execution has ended and is archived"
    )
    parser.add_argument("--cancel", action="store_true", help="cancel them first")
    parser.add_argument("--seconds", type=float, default=600.0, help="so long at most (default: %(default)s)")
    raise SystemExit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
