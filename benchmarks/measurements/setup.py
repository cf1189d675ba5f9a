"""A kept setup against its script: `node_modules` of 20,000 files from S3, and by `npm ci` from a loopback registry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import random
import resource
import tarfile
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.measurement import Options, Row, Target
from ocf.events.adapters.s3 import S3Store
from ocf.events.command_payloads import DirectoryWorkspace, Setup
from ocf.events.output import Draft
from ocf.functions import workspace
from ocf.functions.execute.attempt.setup_script import WorkspaceSetup
from tests.support.offline import node
from tests.support.weed import running_weed

_FILES_PER_PACKAGE = 100
_WORDS = [f"word{number}" for number in range(2_000)]


def package(name: str) -> bytes:
    """An npm package of 100 files of about 2 kB each."""
    chance, out = random.Random(name), io.BytesIO()  # noqa: S311 - the same bytes in each run
    files = {"package.json": json.dumps({"name": name, "version": "1.0.0"})}
    for number in range(_FILES_PER_PACKAGE - 1):
        files[f"lib/part{number}.js"] = " ".join(chance.choices(_WORDS, k=300))
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


class Mirror(ThreadingHTTPServer):
    """A registry that has the packages in memory."""

    daemon_threads = True

    def __init__(self, packages: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Tarball)
        self.packages = packages
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Tarball(BaseHTTPRequestHandler):
    server: Mirror
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.server.packages[self.path.strip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def write_project(folder: Path, mirror: Mirror) -> None:
    """A project whose lock names every package."""
    folder.mkdir()
    root = {"name": "app", "dependencies": dict.fromkeys(mirror.packages, "1.0.0")}
    packages: dict[str, Any] = {"": root}
    for name, content in mirror.packages.items():
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        locked = {"version": "1.0.0", "resolved": f"{mirror.url}/{name}", "integrity": f"sha512-{digest}"}
        packages[f"node_modules/{name}"] = locked
    (folder / "package.json").write_text(json.dumps(root))
    (folder / "package-lock.json").write_text(json.dumps({"name": "app", "lockfileVersion": 3, "packages": packages}))
    (folder / ".gitignore").write_text("node_modules\n")


async def npm_ci(folder: Path, home: Path) -> None:
    """Run `npm ci` with an empty cache."""
    env = {"PATH": f"{node().parent}:{os.environ['PATH']}", "HOME": str(home)}
    process = await asyncio.create_subprocess_exec(
        "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", f"--cache={home}/cache", cwd=folder, env=env
    )
    if await process.wait():
        raise RuntimeError("npm ci failed")


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of this process and its children."""
    start, cpu = time.perf_counter(), _cpu()
    await work()
    return time.perf_counter() - start, _cpu() - cpu


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


async def _discard(_: Draft) -> None:
    """Drop the draft."""


async def measure(options: Options) -> list[Row]:
    """Pairs: the workspace by `npm ci`, and the workspace with the kept layer, its baseline included."""
    count = 4 if options.quick else 200
    mirror = Mirror({f"package{number}": package(f"package{number}") for number in range(count)})
    thread = threading.Thread(target=mirror.serve_forever, daemon=True)
    thread.start()
    pairs = []
    with tempfile.TemporaryDirectory() as folder, running_weed(Path(folder) / "weed") as config:
        top, store = Path(folder), S3Store(config)
        write_project(top / "project", mirror)
        for number in range(options.of(3)):
            pairs.append(await _pair(top / f"run{number}", top / "project", store))
        store.close()
    mirror.shutdown()
    mirror.server_close()
    note = f"{count * _FILES_PER_PACKAGE} files of 2 kB"
    rows = []
    for which, unit, target in ((0, "s", Target("ratio", 0.3)), (1, "s CPU", None)):
        ours, theirs = ([pair[side][which] for pair in pairs] for side in (0, 1))
        rows.append(Row("setup: restore of a kept node_modules", unit, ours, theirs, "npm ci", target, note))
    return rows


async def _pair(top: Path, project: Path, store: S3Store) -> list[tuple[float, float]]:
    top.mkdir()
    sources = workspace.Sources(roots=(project,))
    source = DirectoryWorkspace(source="directory", path=str(project))
    origin: Any = SimpleNamespace(source=source, shared=False, continued=False, limits=workspace.Limits())
    setup = Setup(run="npm ci", cache_key="bench")

    made = await workspace.prepare(source, top / "made", sources, private=top / "made-base")
    by_npm = await timed(lambda: npm_ci(top / "made", top))
    await WorkspaceSetup(setup, "bench", origin, store, top / "keep").keep(made, _discard)

    async def restore() -> None:
        layer = await WorkspaceSetup(setup, "bench", origin, store, top / "fetch").layer(_discard)
        await workspace.prepare(source, top / "restored", sources, private=top / "restored-base", layer=layer)

    restored = await timed(restore)
    kept, found = (
        sorted(path.name for path in (top / name / "node_modules").iterdir()) for name in ("made", "restored")
    )
    assert [name for name in found if name != ".package-lock.json"] == [n for n in kept if n != ".package-lock.json"]
    return [restored, by_npm]
