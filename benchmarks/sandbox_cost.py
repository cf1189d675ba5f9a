"""What the sandbox costs on work that touches many files: bare and confined, alternating, in one run.

    python -m benchmarks.sandbox_cost [--rounds 20] [--json]

Each workload times itself inside, so starting the process is not part of it. `bare` is a plain child process,
`supervised` the same under the supervisor without a sandbox, `confined` in the whole sandbox. The `cpu` rows are
processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ocf.functions.execute.sandbox.policy import SandboxPolicy
from ocf.functions.execute.sandbox.process import ProcessSpec, start_process

PATH = "/usr/local/bin:/usr/bin:/bin"
WORK = """
import json, os, subprocess, time
def git():
    for _ in range(40):
        subprocess.run(["git", "status", "--porcelain"], check=True, stdout=subprocess.DEVNULL)
def walk():
    for folder, _, files in os.walk("/usr/lib"):
        for name in files:
            os.lstat(folder + "/" + name)
def read():
    for folder, _, files in os.walk("."):
        for name in files:
            with open(folder + "/" + name, "rb") as f:
                f.read()
def create():
    os.mkdir("made")
    for number in range(2000):
        with open(f"made/{number}", "w") as f:
            f.write("x")
    for number in range(2000):
        os.unlink(f"made/{number}")
    os.rmdir("made")
def spawn():
    for _ in range(100):
        subprocess.run(["/bin/true"], check=True)
took = {}
for name, work in (("git status x40", git), ("stat walk", walk), ("read a repository", read),
                   ("create and remove 2,000 files", create), ("fork and exec x100", spawn)):
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    took[name] = time.perf_counter() - began
    took[name + ", cpu"] = sum(os.times()[:4]) - cpu
print(json.dumps(took), flush=True)
"""


def repository(path: Path, files: int = 1000) -> None:
    """A git repository with `files` committed files in folders of 50."""
    for number in range(files):
        file = path / f"d{number // 50}" / f"f{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{number}\n" * 40)
    env = {"PATH": PATH, "HOME": str(path)}
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b.c commit -qm start"):
        subprocess.run(["git", *command.split()], cwd=path, env=env, check=True)


async def once(how: str, workspace: Path, home: Path) -> dict[str, float]:
    """Seconds per workload, run `how`."""
    argv = (sys.executable, "-I", "-S", "-c", WORK)
    env = {"PATH": PATH, "HOME": str(home), "TMPDIR": str(home)}
    if how == "bare":
        process = await asyncio.create_subprocess_exec(*argv, cwd=workspace, env=env, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return dict(json.loads(out))
    policy = SandboxPolicy((workspace, home), (Path(sys.base_prefix), Path(sys.prefix)), (1,), 1)
    spec = ProcessSpec(argv, workspace, env, policy if how == "confined" else None, 100, 2**31)
    agent = await start_process(spec)
    found = await agent.wait_line(re.compile(r"^\{.*\}$"), 300)
    await agent.stop(grace=0)
    return dict(json.loads(found.group()))


WAYS = ("bare", "supervised", "confined")


async def samples(rounds: int, ways: tuple[str, ...] = WAYS) -> dict[str, list[dict[str, float]]]:
    """Way -> per round, workload -> seconds."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, as workspaces are on
        workspace, home = Path(folder) / "workspace", Path(folder) / "home"
        workspace.mkdir()
        home.mkdir()
        repository(workspace)
        for way in ways:
            await once(way, workspace, home)  # warm the page cache
        for turn in range(rounds):
            for way in ways if turn % 2 else reversed(ways):
                runs[way].append(await once(way, workspace, home))
    return runs


async def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Workload -> median seconds per way, and `ratio`, the median of confined over bare within a round."""
    ways, runs = WAYS, await samples(rounds)
    table: dict[str, dict[str, float]] = {}
    for work in runs["bare"][0]:
        row = {way: statistics.median(run[work] for run in runs[way]) for way in ways}
        ratios = [confined[work] / bare[work] for confined, bare in zip(runs["confined"], runs["bare"], strict=True)]
        table[work] = row | {"ratio": statistics.median(ratios), "ratio of medians": row["confined"] / row["bare"]}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    table = asyncio.run(measure(arguments.rounds))
    if arguments.json:
        print(json.dumps({"rounds": arguments.rounds, "cores": os.cpu_count(), "seconds": table}, indent=2))
        return
    columns = list(next(iter(table.values())))
    print("| workload, medians of", arguments.rounds, "|", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for work, row in table.items():
        cells = [f"{row[c]:.2f}x" if c.startswith("ratio") else f"{row[c]:.3f} s" for c in columns]
        print(f"| {work} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
