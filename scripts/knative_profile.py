"""What the pods of an installation use, from their control groups, as a Markdown table (docs/reference/sizing.md).

    knative_profile.py [--namespace ocf] [--seconds 10] [SELECTOR]

Memory is what the pod would be killed for: anonymous pages, and the peak of everything charged to it (with file cache,
which is given back). CPU is the mean over `--seconds`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# Control groups of version 2, else of version 1: anonymous bytes, peak bytes, CPU time used in nanoseconds.
READ = """
c=/sys/fs/cgroup
if [ -f $c/memory.current ]; then
  sed -n 's/^anon //p' $c/memory.stat; cat $c/memory.peak; sed -n 's/^usage_usec \\(.*\\)/\\1000/p' $c/cpu.stat
else
  sed -n 's/^total_rss //p' $c/memory/memory.stat; cat $c/memory/memory.max_usage_in_bytes; cat $c/cpuacct/cpuacct.usage
fi
"""
MIB = 1024 * 1024


def kubectl(namespace: str, *arguments: str) -> str:
    """What kubectl says. Raises CalledProcessError."""
    argv = ["kubectl", "--namespace", namespace, *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def containers(namespace: str, selector: str | None) -> list[tuple[str, str]]:
    """Pod and container of everything that runs, without Knative's own."""
    chosen = ["-l", selector] if selector else []
    pods = json.loads(kubectl(namespace, "get", "pods", "-o", "json", *chosen))["items"]
    return [
        (pod["metadata"]["name"], container["name"])
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
        if container["name"] != "queue-proxy"
    ]


def read(namespace: str, pod: str, container: str) -> tuple[int, int, int, float] | None:
    """Anonymous bytes, peak bytes, CPU nanoseconds, and when; None if the pod has gone."""
    try:
        said = kubectl(namespace, "exec", pod, "-c", container, "--", "sh", "-c", READ)
    except subprocess.CalledProcessError:
        return None
    anonymous, peak, used = (int(line) for line in said.split())
    return anonymous, peak, used, time.monotonic()


def main() -> int:
    """Print the table; exit status."""
    parser = argparse.ArgumentParser(description="Memory and CPU of the installation's pods")
    parser.add_argument("selector", nargs="?", help="label selector, e.g. serving.knative.dev/service=execute")
    parser.add_argument("--namespace", default="ocf")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    found = containers(arguments.namespace, arguments.selector)
    with ThreadPoolExecutor(4) as pool:
        before = list(pool.map(lambda one: read(arguments.namespace, *one), found))
        time.sleep(arguments.seconds)
        after = list(pool.map(lambda one: read(arguments.namespace, *one), found))
    sys.stdout.write("| pod | memory, MiB | peak with file cache, MiB | CPU, cores |\n|---|---|---|---|\n")
    for (pod, _), first, last in zip(found, before, after, strict=True):
        if first and last:
            cores = (last[2] - first[2]) / 1e9 / (last[3] - first[3])
            sys.stdout.write(f"| {pod} | {last[0] / MIB:.0f} | {last[1] / MIB:.0f} | {cores:.2f} |\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
