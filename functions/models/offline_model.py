"""Offline scripted model: `@copilotkit/aimock` on a loopback port, answering from fixture files.

It replaces a provider when no key is configured, for the demo and for tests. It is not a model: it plays a script, and
all its texts, fixtures and display names contain `offline scripted model`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
#: Path of the package after `npm ci`, below the tools' directory.
PACKAGE = Path("node_modules/@copilotkit/aimock/dist/cli.js")


class OfflineModelFailed(RuntimeError):
    """The offline scripted model did not start."""


@dataclass(frozen=True)
class OfflineSpec:
    """Settings of the offline model.

    Attributes:
        node: the node binary (20 or newer).
        tools: the directory whose `node_modules` has `@copilotkit/aimock`.
        fixtures: fixture files, or directories of them; the first matching fixture answers.
        port: on 127.0.0.1; 0 takes a free one and reports it.
        speed: 1 is a pace people can read; more is faster.
    """

    node: Path
    tools: Path
    fixtures: Sequence[Path]
    port: int = 0
    speed: float = 1.0

    def files(self) -> list[Path]:
        """Return the fixture files, those of a directory sorted by name.

        Raises:
            OfflineModelFailed: there are none.
        """
        found: list[Path] = []
        for path in self.fixtures:
            # aimock itself reads a directory in the file system's order, which differs between machines.
            found += sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise OfflineModelFailed(f"no fixtures for the offline scripted model in {list(map(str, self.fixtures))}")
        return found

    def argv(self) -> tuple[str, ...]:
        """Return the command line."""
        files = [word for path in self.files() for word in ("-f", str(path))]
        return (
            str(self.node), str(self.tools / PACKAGE), "-h", "127.0.0.1", "-p", str(self.port), *files,
            "--strict", "--journal-max", "200", "--replay-speed", str(self.speed), "--log-level", "info",
        )  # fmt: skip


class OfflineModel:
    """A running offline model. `async with OfflineModel(spec) as model: model.base_url`."""

    def __init__(self, spec: OfflineSpec, *, env: Mapping[str, str] | None = None) -> None:
        self._spec = spec
        self._env = dict(env or {})
        self._process: asyncio.subprocess.Process | None = None
        self._tail: deque[str] = deque(maxlen=20)
        self._reading: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def base_url(self) -> str:
        """Return the URL for `ModelTarget.base_url` and `OCF_OFFLINE_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """Return its process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def __aenter__(self) -> OfflineModel:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, patience: float = 15.0) -> None:
        """Start it and wait until it listens.

        Raises:
            OfflineModelFailed: it ended, or was not ready in `patience` seconds; with its last lines.
        """
        argv = self._spec.argv()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise OfflineModelFailed(f"the offline scripted model cannot be started: {error}") from None
        try:
            # Its own line, not a health probe: another server on the port would answer a probe too.
            await asyncio.wait_for(self._listening(), patience)
        except (TimeoutError, EOFError):
            await self.stop()
            lines = "\n".join(self._tail)
            raise OfflineModelFailed(f"the offline scripted model did not start:\n{lines}") from None
        self._reading = asyncio.create_task(self._drain())

    async def journal(self) -> list[dict[str, Any]]:
        """Return the requests it got, oldest first; `body` is what the model would have been sent."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self.port}/__aimock/journal")
            answer.raise_for_status()
            found = answer.json()
        return list(found if isinstance(found, list) else found["entries"])

    async def stop(self, grace: float = 1.0) -> None:
        """End it; nothing of it is left when this returns."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), grace)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reading is not None:
            await self._reading
            self._reading = None

    async def _listening(self) -> None:
        while True:
            line = await self._line()
            if (found := _LISTENING.search(line)) is not None:
                self.port = int(found[1])
                return

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        raw = await self._process.stdout.readline()
        if not raw:
            raise EOFError
        line = raw.decode(errors="replace").rstrip()
        self._tail.append(line)
        return line

    async def _drain(self) -> None:
        """Read on, so that a full pipe does not block it."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            self._tail.append(raw.decode(errors="replace").rstrip())
