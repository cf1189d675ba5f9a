"""Run one execution as a Job (`python -m ocf.functions.execute.job`). JobSink mounts the event at `K_EVENT_PATH`.

For runs longer than a Knative Service should hold a request. The same worker as in the Service: leases, cancel, facts
and archive work alike. JobSink accepts events from any client that reaches it and cannot check the dispatcher's token;
so the event in the file only names the execution, and the command that runs is read from JetStream.

Exit status: 0 when the execution has ended or needs no further work, 1 when the Job should try again.
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
from ocf.events.envelope import STRUCTURED, Event, decode
from ocf.events.errors import Drop, KeyNotYetKnown, NotYetKnown, OcfError, Retry
from ocf.functions.core import command_parsing
from ocf.functions.core.command_parsing import ids_of
from ocf.functions.execute.context import open_context
from ocf.functions.execute.worker import Worker, worker_of
from ocf.functions.observability import logs, tracing
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.settings.settings import Settings, load_or_exit

log = structlog.get_logger()

#: Seconds between two tries of an execution that cannot run yet.
_RETRY_SECONDS = 2.0
#: Look-ups without any trace of an execution before it counts as deleted: a replica of a stream may lag.
_MAX_MISSING = 15


def event_file(path: Path) -> Path:
    """Return the event's file: JobSink's mount is a folder that holds it as `event`."""
    return path / "event" if path.is_dir() else path


def subject_of(notice: Event) -> str:
    """Return the subject of the command that `notice` is about.

    Raises:
        InvalidEvent: it names no execution.
    """
    return subjects.command("execute", *ids_of(notice))


async def stored_command(deps: Dependencies, notice: Event) -> Event:
    """Return the stored execute command of the execution that `notice` names.

    Raises:
        InvalidEvent: `notice` names no execution.
        NotYetKnown: the stream has no command for it.
    """
    return await command_parsing.stored_command(deps.bus, subject_of(notice))


async def run(settings: Settings, notice: Event) -> int:
    """Run the execution to its end; return the exit status."""
    async with build(settings, "execute-job") as deps, open_context(deps) as context:
        worker = worker_of(context)
        working = asyncio.create_task(_work(deps, worker, notice))
        loop = asyncio.get_running_loop()
        stops: list[asyncio.Task[None]] = []
        grace = settings.drain_seconds
        loop.add_signal_handler(signal.SIGTERM, lambda: stops.append(loop.create_task(leave(worker, grace))))
        began, which = time.monotonic(), {"type": notice.type, "event_id": notice.id}
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
    """Stop before the pod ends: let the run finish for at most `grace` seconds; else the Job's next pod restarts it."""
    await worker.drained(grace)
    await worker.stop()


async def _work(deps: Dependencies, worker: Worker, notice: Event) -> None:
    """Run the execution once it can run.

    JobSink acknowledged the command when it took the event, so it is not redelivered, and a Job retries only a few
    times. Conditions the dispatcher would retry are waited for here: earlier executions of the session, which may take
    hours, a dead pod's lease, an unavailable store. `leave` stops the wait.

    Raises:
        Drop: the execution has ended, or was deleted.
        Retry: this worker is shutting down, or a key is missing.
    """
    missing, reason = 0, ""
    with tracing.span(f"process {notice.type}", notice):
        while True:
            try:
                return await worker.execute(await stored_command(deps, notice))
            except Retry as error:
                if worker.draining or isinstance(error, KeyNotYetKnown):
                    raise  # the keys of this pod do not change: the Job's next pod reads the Secret
                if isinstance(error, NotYetKnown):
                    missing += 1
                    if missing >= _MAX_MISSING:
                        raise Drop(f"{error}: the execution was deleted") from None
                if str(error) != reason:  # once per reason, not every two seconds for hours
                    reason = str(error)
                    log.info("waiting", action="job.waiting", reason=reason)
            await deps.clock.sleep(_RETRY_SECONDS)


def main() -> int:
    """Run the Job; return the exit status."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    tracing.configure(settings, "execute-job")
    given = os.environ.get("K_EVENT_PATH")
    if not given:
        sys.stderr.write("ocf: K_EVENT_PATH: it is empty; JobSink sets it\n")
        return 2
    try:
        notice = decode({"content-type": STRUCTURED}, event_file(Path(given)).read_bytes())
        # Adds the execution to every log line.
        with structlog.contextvars.bound_contextvars(**logs.about(subject_of(notice), notice)):
            return asyncio.run(run(settings, notice))
    except (OSError, OcfError) as error:
        sys.stderr.write(f"ocf: execute job: {error}\n")
        return 1
    finally:
        tracing.flush()


if __name__ == "__main__":
    raise SystemExit(main())
