"""The parent of workers: `MAX_CONCURRENT_TASKS` concurrent deliveries, each in its own process (ADR 0010).

The parent passes each connection to a free worker, or responds with 429. It has one thread, no event loop, no key and
no connection to NATS or S3, and reads only the first bytes of a request (`http_listener.py`). No input of a tenant can
therefore stop it, and a failure of a worker affects one execution.

It forks workers after it has imported their modules, which takes milliseconds. `parent_channel.py` is the worker's
side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import structlog

from ocf.events.adapters import s3
from ocf.functions.core.syscalls import protect_self
from ocf.functions.observability import logs
from ocf.functions.settings.settings import Settings, load_or_exit
from ocf.functions.workers import metrics_sum, sealed_environment
from ocf.functions.workers import parent_channel as link
from ocf.functions.workers.http_listener import Listener
from ocf.functions.workers.idle_cores import IdleCores
from ocf.functions.workers.server_boot_queue import BootQueue
from ocf.functions.workers.worker_fork import Child, start

log = structlog.get_logger()

#: Seconds without a message of a worker's event loop until the worker is killed; after `_SLOW` it gets no deliveries.
HANG = 30.0
_SLOW = 5.0
#: Seconds until a surplus worker is stopped: the next delivery may come at once.
_SURPLUS_SECONDS = 2.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 10.0
#: Seconds beyond `DRAIN_SECONDS` for a stopping worker to release its execution and clean up.
_LEAVE_SECONDS = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def main() -> NoReturn:
    """Run the parent. A process with keys in its environment first executes itself again without them."""
    if sealed_environment.SEALED not in os.environ:
        sealed_environment.reexec_sealed()
    sealed = int(os.environ.pop(sealed_environment.SEALED))
    settings = load_or_exit()
    logs.configure(settings.log_level)
    for module in (
        "ocf.functions.runtime.serve",
        "ocf.functions.execute.main",
        "uvicorn.protocols.http.auto",
        "uvicorn.lifespan.on",
    ):
        importlib.import_module(module)
    s3.preload()
    gc.collect()
    gc.freeze()  # a collection in a worker would write to, and so copy, every page
    try:
        raise SystemExit(Parent(settings, sealed).serve())
    except OSError as error:
        sys.stderr.write(f"ocf: cannot start execute on {settings.host}:{settings.port}: {error.strerror}\n")
        raise SystemExit(1) from None


@dataclass(eq=False)
class _Worker:
    """A worker process. `number` is its small number, `deliveries` the number of unfinished deliveries."""

    pid: int
    number: int
    link: socket.socket
    last_message: float
    free_since: float
    ready: bool = False
    warm: bool = False
    deliveries: int = 0
    leaving: float | None = None

    @property
    def free(self) -> bool:
        return self.deliveries == 0 and self.leaving is None

    def send(self, what: bytes) -> None:
        with suppress(OSError):  # the worker is dead or hangs, which `_supervise` detects
            self.link.send(what)


class Parent:
    """The parent process. `sealed` is the descriptor of the workers' environment."""

    def __init__(self, settings: Settings, sealed: int) -> None:
        self._settings = settings
        self._sealed = sealed
        self._spare = max(1, settings.warm_slots)
        self._max_deliveries = settings.max_concurrent_tasks
        #: Beyond the busy workers there may be as many warm ones as configured, for the next deliveries.
        self._max_workers = self._max_deliveries + settings.warm_slots
        self._selector = selectors.DefaultSelector()
        self._counts = sealed_environment.memory_file()
        self._workers: dict[int, _Worker] = {}
        self._boots: BootQueue[_Worker] = BootQueue(
            lambda worker, idle: worker.send(link.BOOT_IDLE if idle else link.BOOT)
        )
        self._cores = IdleCores()
        self._listener: Listener | None = None
        self._stopping = self._ever_ready = False
        self._status = 0
        self._not_before = 0.0
        self._backoff = _FIRST_BACKOFF
        self._last_round = time.monotonic()

    def serve(self) -> int:
        """Serve until SIGTERM or SIGINT, and until all workers have ended; return the exit status.

        Raises:
            OSError: The address is not available.
        """
        protect_self()
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(4096))
        self._listener = Listener(
            self._selector,
            (self._settings.host, self._settings.port),
            deliver=self._deliver,
            query=self._query,
            full=json.dumps({"detail": f"all {self._max_deliveries} workers are taken (MAX_CONCURRENT_TASKS)"}),
        )
        log.info("parent ready", action="parent.ready", port=self._listener.port, most=self._max_deliveries)
        while self._supervise(time.monotonic()):
            for key, _ in self._selector.select(0.2 if self._listener and self._spare_needed else 1.0):
                key.data()
        return self._status

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = self._stopping or number != signal.SIGCHLD

    def _deliver(self, connection: socket.socket) -> bool:
        """Pass a delivery to a free worker, preferably a warm one, or to a new one; return whether there was one."""
        while sum(worker.deliveries > 0 for worker in self._workers.values()) < self._max_deliveries:
            free = [one for one in self._workers.values() if one.free and self._last_round - one.last_message < _SLOW]
            worker = min(free, key=lambda one: (not one.warm, not one.ready, one.free_since), default=None)
            worker = worker or self._fork_worker()
            if worker is None:
                return False
            if self._pass_connection(worker, link.DELIVERY, connection):
                worker.deliveries += 1
                worker.warm = False
                self._cores.restart()
                return True
        return False

    def _query(self, connection: socket.socket) -> bool:
        """Pass a query for readiness or metrics to any worker; return whether there was one."""
        candidates = sorted(self._workers.values(), key=lambda one: (not one.ready, one.deliveries, -one.last_message))
        return any(
            self._pass_connection(one, link.QUERY, connection)
            for one in candidates
            if self._last_round - one.last_message < _SLOW
        )

    def _pass_connection(self, worker: _Worker, what: bytes, connection: socket.socket) -> bool:
        try:
            socket.send_fds(worker.link, [what], [connection.fileno()])
        except OSError:
            self._end(worker, signal.SIGKILL)  # the worker has just died, or no longer reads
            return False
        return True

    def _supervise(self, now: float) -> bool:
        """Kill hanging workers, remove ended ones, fork missing ones; return whether to continue."""
        asleep, self._last_round = now - self._last_round, now
        for worker in list(self._workers.values()):
            if asleep > _SLOW:
                worker.last_message += asleep  # this process did not run, so the silence is not the worker's fault
            ended, status = os.waitpid(worker.pid, os.WNOHANG)
            if ended:
                self._ended(worker, os.waitstatus_to_exitcode(status))
            elif now - worker.last_message > HANG or (worker.leaving is not None and now > worker.leaving):
                log.error("hanging worker killed", action="parent.worker_hangs", worker_pid=worker.pid)
                worker.last_message = now
                self._end(worker, signal.SIGKILL)
        if self._listener is None:
            return bool(self._workers)
        if self._stopping:
            self._listener.close()
            self._listener = None
            for worker in self._workers.values():
                self._end(worker, signal.SIGTERM)
            return bool(self._workers)
        self._listener.expire(now)
        self._keep_spares(now)
        return True

    @property
    def _spare_needed(self) -> bool:
        """Return whether a worker or a server for the next delivery is missing."""
        free = sum(worker.free for worker in self._workers.values())
        return self._boots.spares_wait or (free < self._spare and len(self._workers) < self._max_workers)

    def _keep_spares(self, now: float) -> None:
        """Fork a missing spare worker and let it boot, unless an execution needs the processors."""
        free = [worker for worker in self._workers.values() if worker.free]
        runs = len(free) < len(self._workers)
        calm = self._cores.idle(now) or not runs
        if len(free) < self._spare and (calm or not self._workers):
            self._fork_worker()
        free.sort(key=lambda one: (one.warm, one.ready, -one.free_since))
        if calm:
            self._boots.admit(free[-self._spare :], runs=runs)
        for worker in free[: -self._spare]:
            if worker.ready and now - worker.free_since > _SURPLUS_SECONDS:
                self._end(worker, signal.SIGTERM)

    def _end(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.leaving is None:
            worker.leaving = self._last_round + self._settings.drain_seconds + _LEAVE_SECONDS
        with suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    def _ended(self, worker: _Worker, status: int) -> None:
        del self._workers[worker.pid]
        self._boots.release(worker)
        with suppress(KeyError):  # unregistered before, when its socket was closed
            self._selector.unregister(worker.link)
        worker.link.close()
        metrics_sum.ended(self._counts, worker.number)
        if worker.leaving is not None and (status == 0 or self._listener is None):
            return
        log.warning("worker ended", action="parent.worker_ended", worker_pid=worker.pid, status=status)
        if not self._ever_ready:
            # The worker has logged the reason: a setting, or NATS is unavailable. The supervisor of this process
            # restarts it.
            self._stopping, self._status = True, status if status > 0 else 1
        if worker.ready:
            self._backoff = _FIRST_BACKOFF
        else:  # the next worker would probably end at once, too
            self._not_before = self._last_round + self._backoff
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    def _receive(self, worker: _Worker) -> None:
        try:
            message = worker.link.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._selector.unregister(worker.link)
            return
        worker.last_message = time.monotonic()
        for word in (message[at : at + 1] for at in range(len(message))):
            if word in (link.COLD, link.WARM):
                worker.ready = self._ever_ready = True
                worker.warm = word == link.WARM
            elif word == link.DONE:
                worker.deliveries -= 1
                worker.free_since = worker.last_message
            elif word == link.WANTS_BOOT:
                self._boots.request(worker)
            elif word == link.WANTS_SPARE:
                self._boots.request_spare(worker)
            elif word == link.BOOTED:
                self._boots.release(worker)

    def _fork_worker(self) -> _Worker | None:
        """Fork a worker; return None if the maximum is reached or the backoff after a failed start is not over."""
        now = time.monotonic()
        if len(self._workers) >= self._max_workers or now < self._not_before:
            return None
        taken = {worker.number for worker in self._workers.values()}
        number = min(set(range(self._max_workers)) - taken)
        ours, its = socket.socketpair()
        ours.setblocking(False)
        with its:
            child = Child(
                number, self._max_workers, str(self._settings.state_dir), its.fileno(), self._sealed, self._counts
            )
            pid = start(child, _SIGNALS)
        worker = self._workers[pid] = _Worker(pid, number, ours, last_message=now, free_since=now)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._receive(worker))
        return worker
