"""`python -m faults [--seed N] [--only VICTIM:FAULT,...] [--quarter] [--cluster] [--soak MINUTES]`; needs root, Linux.

It puts itself into namespaces of its own first (network, mounts, processes): nothing of it reaches the machine, and
when it ends, however that goes, everything it started is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults import nats_cluster_run, report, run, soak
from faults.fault_pairs import chosen
from faults.inject import faketime

ROOT = Path(__file__).resolve().parents[1]
_INSIDE = "OCF_FAULTS_INSIDE"
_NEEDED = ("unshare", "nsenter", "ip", "mke2fs", "mount", "findmnt")
#: A child of its own for PID 1, which takes in orphans and lets the dead go.
_INIT = 'mount -t tmpfs tmpfs /run && "$@"; exit $?'


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="decides order, nodes and kinds; random when left out")
    parser.add_argument("--only", default="", help="victim:fault, victim or :fault; comma-separated")
    parser.add_argument("--quarter", action="store_true", help="a random quarter of the table")
    parser.add_argument("--share", default="1/1", metavar="N/OF", help="one of several runs that share the table")
    parser.add_argument("--cluster", action="store_true", help="three NATS servers, and faults of them")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="random faults for so long")
    parser.add_argument("--stop", type=float, default=30.0, metavar="SECONDS", help="how long SIGSTOP lasts")
    parser.add_argument("--rate", type=float, default=1.0, help="executions a second")
    parser.add_argument("--keep", default="", metavar="NAME", help="merge the result into faults/results.json")
    parser.add_argument("--logs", action="store_true", help="keep the logs of all parts")
    parser.add_argument("--merge", nargs="+", default=[], metavar="FILE", help="take over results of other checkouts")
    parser.add_argument("--report", action="store_true", help="only write the pages from faults/results.json")
    return parser.parse_args()


def enter() -> None:
    """Run again inside namespaces. Does not return."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    missing += [] if faketime() else ["libfaketime (Debian: faketime)"]
    if os.geteuid() != 0 or missing:
        what = (
            f"these are missing: {', '.join(missing)}" if missing else "it makes namespaces and mounts: run it as root"
        )
        raise SystemExit(f"faults: {what}")
    space = (
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--ipc",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    )
    argv = (*space, "sh", "-c", _INIT, "sh", sys.executable, "-m", "faults", *sys.argv[1:])
    os.execvpe(argv[0], argv, {**os.environ, _INSIDE: "1"})  # noqa: S606 - entering is the purpose


def commit() -> str:
    """The commit that is hurt; `+` when the tree differs from it."""
    told = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "events", "functions"], cwd=ROOT, capture_output=True, text=True
    )
    return (told.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


async def measured(asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The run that was asked for."""
    wanted = run.Options(seed, asked.rate, asked.stop, nodes=3 if asked.cluster else 1, keep=asked.logs)
    if asked.soak:
        return await soak.soak(asked.soak, wanted)
    if asked.cluster:
        return await nats_cluster_run.cluster(wanted)
    return await run.matrix(chosen(asked.only, quarter=asked.quarter, seed=seed, share=asked.share), wanted)


def main() -> int:
    """Exit status 0 when every invariant held."""
    asked = options()
    for file in asked.merge:
        for name, result in json.loads(Path(file).read_text()).items():
            report.keep(name, result)
    if asked.merge:
        return 0
    if asked.report:
        report.write()
        return 0
    if os.environ.get(_INSIDE) != "1":
        enter()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1_000_000)
    version, began = commit(), datetime.now(UTC)
    result = asyncio.run(measured(asked, seed))
    result |= {"commit": version, "date": began.isoformat(timespec="seconds")}
    result["minutes"] = round((datetime.now(UTC) - began).total_seconds() / 60, 1)
    path = ROOT / ".bench/faults.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    if asked.keep:
        report.keep(asked.keep, result)
    for line in run.complaints(result):
        run.say(f"WRONG  {line}")
    run.say(f"seed {seed}: {'every invariant held' if result['good'] else 'NOT good'}; {path}")
    return 0 if result["good"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
