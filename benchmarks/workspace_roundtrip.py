"""Round trip of awkward workspaces through a real S3 server: time, throughput, memory.

    python -m benchmarks.workspace_roundtrip [--files 50000] [--binary-mb 1024] [--json]

Two workspaces (many small files, one large binary) are copied and recorded (prepare), summed up, packed, stored,
fetched, unpacked, and compared byte for byte. Memory is the growth of peak RSS over its start, git's included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from ocf.events.adapters.s3 import S3Store
from ocf.events.command_payloads import DirectoryWorkspace
from ocf.functions.workspace import Limits, Sources, forget, pack, prepare, summarise, unpack
from ocf.functions.workspace.safe_tree import remove_tree
from tests.support.trees import awkward, listing
from tests.support.weed import running_weed

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One phase: seconds, seconds of CPU (git's included), content per second of each, growth of memory."""

    workspace: str
    phase: str
    seconds: float
    cpu_seconds: float
    mb_per_second: float
    mb_per_cpu_second: float
    memory_mb: float


class Peak:
    """The largest RSS of this process and its children while it is entered, over that at the start."""

    def __enter__(self) -> Peak:
        self._process = psutil.Process()
        self._start = self._process.memory_info().rss
        self._largest = self._start
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth_mb(self) -> float:
        """In megabytes."""
        return (self._largest - self._start) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            total = self._process.memory_info().rss
            for child in self._process.children():
                try:
                    total += child.memory_info().rss if child.name() == "git" else 0
                except psutil.NoSuchProcess:
                    continue
            self._largest = max(self._largest, total)


async def measured(figures: list[Figure], workspace: str, phase: str, size: int, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` and add its figure."""
    with Peak() as peak:
        start, cpu_start = time.perf_counter(), _cpu()
        result = await work()
        seconds, cpu = time.perf_counter() - start, _cpu() - cpu_start
    per_second, per_cpu_second = (round(size / spent / 1e6, 1) for spent in (seconds, max(cpu, 0.001)))
    growth = round(peak.growth_mb, 1)
    figures.append(Figure(workspace, phase, round(seconds, 2), round(cpu, 2), per_second, per_cpu_second, growth))
    return result


def _cpu() -> float:
    """Seconds of CPU of this process and its ended children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


async def round_trip(name: str, source: Path, top: Path, store: S3Store) -> list[Figure]:
    """All phases of one workspace; raises AssertionError unless it comes back as it was."""
    figures: list[Figure] = []
    before = listing(source)
    size = sum(path.lstat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    sources = Sources(roots=(source,), limits=Limits())
    wanted = DirectoryWorkspace(source="directory", path=str(source))
    archive, fetched, back = top / "a.tar.zst", top / "b.tar.zst", top / "back"

    async def fetch() -> None:
        with fetched.open("wb") as file:
            async for piece in store.stream(f"bench/{name}/workspace.tar.zst"):
                file.write(piece)

    workspace = await measured(
        figures, name, "prepare (copy and base)", size,
        lambda: prepare(wanted, top / "workspace", sources, private=top / "private"),
    )  # fmt: skip
    await measured(figures, name, "summarise, nothing changed", size, lambda: summarise(workspace))
    await measured(figures, name, "pack", size, lambda: pack(workspace, archive))
    await measured(
        figures, name, "store in S3", archive.stat().st_size,
        lambda: store.put_file(f"bench/{name}/workspace.tar.zst", archive),
    )  # fmt: skip
    await measured(figures, name, "fetch from S3", archive.stat().st_size, fetch)
    await measured(figures, name, "unpack", size, lambda: unpack(fetched, back))
    assert listing(back) == before, f"{name} did not come back as it was"
    await forget(workspace)
    await remove_tree(back)
    for path in (archive, fetched):
        path.unlink()
    return figures


async def run(files: int, binary_mb: int) -> list[Figure]:
    """The figures of both workspaces."""
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as directory:
        top = Path(directory)
        with running_weed(top / "weed") as where:
            store = S3Store(where)
            await store.put("bench/warm-up", b"x")
            awkward(top / "small", files=files, binary_bytes=1000)
            figures = await round_trip(f"{files} files", top / "small", top, store)
            await remove_tree(top / "small")
            awkward(top / "large", files=10, binary_bytes=binary_mb * 1024**2)
            figures += await round_trip(f"{binary_mb} MB binary", top / "large", top, store)
            await remove_tree(top / "large")
            store.close()
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--binary-mb", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = asyncio.run(run(asked.files, asked.binary_mb))
    if asked.json:
        json.dump([asdict(figure) for figure in figures], sys.stdout)
        return
    print("| workspace | phase | seconds | CPU seconds | MB/s | MB per CPU second | memory, MB |\n|" + "---|" * 7)
    for figure in figures:
        print(f"| {' | '.join(str(value) for value in asdict(figure).values())} |")


if __name__ == "__main__":
    main()
