"""Runs one execution as a Job (`python -m ocf.functions.execute.job`). JobSink mounts the event at `K_EVENT_PATH`.

For runs longer than a Knative Service should hold a request. The same worker as in the Service: leases, cancel,
facts and archive work alike. JobSink takes events from whoever reaches it and cannot check the dispatcher's token;
so the event in the file only says *which* execution is meant, and what runs is the command that JetStream keeps.

Exit status: 0 when the execution has ended or needs nothing any more, 1 when the Job should try again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import structlog

from ocf.events import subjects
from ocf.events.delivery import NATS_SUBJECT
from ocf.events.envelope import STRUCTURED, Event, decode
from ocf.events.errors import Drop, NotYetKnown, OcfError, Retry
from ocf.functions.core.command_events import ids_of
from ocf.functions.execute.context import open_context
from ocf.functions.execute.worker import Worker, worker_of
from ocf.functions.observability import logs, tracing
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.settings.settings import Settings, load_or_exit

log = structlog.get_logger()

#: Between two tries of what is not its turn yet.
_AGAIN = 2.0
#: So often nothing at all is found of an execution before it counts as deleted: a copy of a stream may lag.
_LOOKS = 15


def event_file(path: Path) -> Path:
    """JobSink's mount is a folder with the event in its file `event`."""
    return path / "event" if path.is_dir() else path


def subject_of(told: Event) -> str:
    """Where the command lies that `told` is about. Raises InvalidEvent: it names no execution."""
    return subjects.command("execute", *ids_of(told))


async def kept_command(deps: Dependencies, told: Event) -> Event:
    """The execute command of the execution that `told` names, as the stream has it.

    Raises:
        InvalidEvent: `told` names no execution.
        NotYetKnown: the stream has none.
    """
    subject = subject_of(told)
    message = await deps.bus.last(subjects.COMMANDS, subject)
    if message is None:
        raise NotYetKnown(f"there is no command on {subject}")
    return decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: subject})


async def run(settings: Settings, told: Event) -> int:
    """Run it to its end; exit status."""
    async with build(settings, "execute-job") as deps, open_context(deps) as context:
        worker = worker_of(context)
        working = asyncio.create_task(_work(deps, worker, told))
        loop = asyncio.get_running_loop()
        stops: list[asyncio.Task[None]] = []
        grace = settings.drain_seconds
        loop.add_signal_handler(signal.SIGTERM, lambda: stops.append(loop.create_task(leave(worker, grace))))
        began, which = time.monotonic(), {"type": told.type, "event_id": told.id}
        try:
            await working
        except Drop as error:
            log.info("nothing to do", action="event.dropped", reason=str(error), **which)
        except OcfError as error:
            log.warning("not done", action="event.refused", reason=str(error), **which)
            return 1
        finally:
            await asyncio.gather(*stops)
        log.info("event handled", action="event.handled", seconds=round(time.monotonic() - began, 3), **which)
    return 0


async def leave(worker: Worker, grace: float) -> None:
    """The pod must go: let the run end, for at most `grace` seconds; else the Job's next pod begins it anew."""
    await worker.drained(grace)
    await worker.stop()


async def _work(deps: Dependencies, worker: Worker, told: Event) -> None:
    """Run it, when its turn has come.

    The command was acknowledged when JobSink took the event, so nobody delivers it again, and a Job tries only so
    often. What the dispatcher would bear with is borne in here: its session's earlier executions, which may take hours,
    the lease of a pod that died, a store that is away. `leave` ends that.

    Raises:
        Drop: it has ended, or was deleted.
        Retry: this worker is shutting down.
    """
    looks, said = 0, ""
    with tracing.span(f"process {told.type}", told):
        while True:
            try:
                return await worker.execute(await kept_command(deps, told))
            except Retry as error:
                if worker.draining:
                    raise
                if isinstance(error, NotYetKnown):
                    looks += 1
                    if looks >= _LOOKS:
                        raise Drop(f"{error}: it was deleted") from None
                if str(error) != said:  # and not every two seconds for hours
                    said = str(error)
                    log.info("waiting", action="job.waiting", reason=said)
            await deps.clock.sleep(_AGAIN)


def main() -> int:
    """Run it."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    tracing.configure(settings, "execute-job")
    given = os.environ.get("K_EVENT_PATH")
    if not given:
        sys.stderr.write("ocf: K_EVENT_PATH: it is empty; JobSink sets it\n")
        return 2
    try:
        told = decode({"content-type": STRUCTURED}, event_file(Path(given)).read_bytes())
        # Every line says which execution it is about.
        with structlog.contextvars.bound_contextvars(**logs.about(subject_of(told), told)):
            return asyncio.run(run(settings, told))
    except (OSError, OcfError) as error:
        sys.stderr.write(f"ocf: execute job: {error}\n")
        return 1
    finally:
        tracing.flush()


if __name__ == "__main__":
    raise SystemExit(main())
