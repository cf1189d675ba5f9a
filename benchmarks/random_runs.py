"""Runs of the real OpenCode that a seed draws: what a scripted model does in them, and from which files they begin.

Each run has a kind (`KINDS`) and three to eight steps: half of them of the kind, the rest of `files` and `shell`. A
step is one answer of `tests.support.step_model`: tool calls, some of which fail. No step writes the clock or chance
into a file, because no rerun could write the same; their output has them.
"""

from __future__ import annotations

import base64
import random
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.git_http import run_git
from tests.support.step_model import prompt

Step = dict[str, Any]
KINDS = ("files", "shell", "git", "tests", "subagents", "mcp", "images")
_WORDS = (
    "alpha", "beta", "gamma", "delta", "one", "two", "three", "ü", "日本", "'quoted'", '"double"', "$HOME", "\\n",
    "tab\tend", "%s", "{}", "<b>", "é",
)  # fmt: skip
_COMMIT = "git add -A && git -c user.name=a -c user.email=a@b.c commit -qm"
_SHELL = (
    "seq {n} | awk '{{s+=$1}} END {{print s}}' > sum{n}.txt; cat sum{n}.txt",
    "mkdir -p d{n}/e && printf '%s\\n' b a c | sort > d{n}/e/sorted.txt",
    "find . -name '*.txt' -not -path './.git/*' | sort",
    "ls -l",
    "date; echo $$; pwd",
    "echo to stderr >&2; exit {n}",
    "cat missing{n}.txt",
    "for i in 1 2 3; do echo line $i >> loop.txt; done; wc -l loop.txt",
    "head -c 300000 /dev/zero | tr '\\0' x | fold -w 80 | nl | head -{n}000",
    "(echo one > bg{n}.txt) & wait; cat bg{n}.txt",
    "rm -f loop.txt; ln -sf sum{n}.txt link{n}; chmod +x *.txt 2>/dev/null; true",
    "mktemp -d; python3 -c 'print(sum(range({n})))'",
    "printf '\\000\\001\\377' > binary{n}.bin; cksum binary{n}.bin",
)
_GIT = (
    "git status --short; git log --oneline",
    "git checkout -qb branch{n} && git branch",
    "echo changed {n} >> notes.md && git diff --stat",
    f"{_COMMIT} 'commit {{n}}' && git log -1 --format='%h %s'",
    "git stash -q; git status --short; git stash pop -q; git diff | head -20",
    "git mv notes.md notes{n}.md; git status --short",
    "git show HEAD:calc.py | head -3",
)
_TESTS = (
    "python3 -m unittest -v",
    "python3 -m unittest test_calc.Calc.test_add",
    "python3 -m unittest missing{n}",
    "python3 -c 'import calc; print(calc.add({n}, 2))'",
)
_CALC = "def add(a, b):\n    return a - b\n\n\ndef double(a):\n    return 2 * a\n"
_TEST = """import unittest
from calc import add, double


class Calc(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 2), 4)

    def test_double(self):
        self.assertEqual(double(4), 8)
"""
_TIME = {"time": {"type": "local", "command": [sys.executable, "-m", "mcp_server_time"], "env": {"TZ": "UTC"}}}


@dataclass(frozen=True)
class Drawn:
    """A drawn run: its prompt, and the other fields of its task."""

    number: int
    kind: str
    prompt: str
    fields: dict[str, Any] = field(default_factory=dict)


def draw(seed: int, count: int, sources: Path) -> list[Drawn]:
    """Return the first `count` runs of a seed. `sources` is the folder that `repository` has filled."""
    return [_drawn(random.Random(f"{seed}/{number}"), number, sources) for number in range(count)]  # noqa: S311


def repository(sources: Path) -> None:
    """Make the repository that runs of the kinds `git` and `tests` begin from, with the same ids each time."""
    folder = sources / "repo"
    folder.mkdir(parents=True)
    for name, text in (("calc.py", _CALC), ("test_calc.py", _TEST), (".gitignore", "__pycache__/\n")):
        (folder / name).write_text(text)
    run_git("init", "-q", cwd=folder)
    for message in ("one", "two"):
        (folder / "notes.md").write_text(f"# Notes {message}\n")
        run_git("add", "-A", cwd=folder)
        run_git("commit", "-qm", message, cwd=folder)


def _drawn(rng: random.Random, number: int, sources: Path) -> Drawn:
    kind, files = rng.choice(KINDS), list[str]()
    fields: dict[str, Any] = {}
    if kind in ("git", "tests"):
        repo = sources / "repo"
        clone = {"source": "git", "url": f"file://{repo}"}
        fields["workspace"] = rng.choice([clone, {"source": "directory", "path": str(repo)}])
    if kind == "mcp":
        fields["mcp"] = _TIME
    if kind == "images" and rng.random() < 0.7:
        data = base64.b64encode(_png(rng)).decode()
        fields["attachments"] = [{"name": "drawn.png", "media_type": "image/png", "data": data}]
    steps: list[Step] = []
    for _ in range(rng.randint(3, 8)):
        what = kind if rng.random() < 0.5 else rng.choice(("files", "shell"))
        steps += _MAKERS[what](rng, files)
    return Drawn(number, kind, prompt(*steps, {"say": _text(rng)}), fields)


def _files(rng: random.Random, files: list[str]) -> list[Step]:
    known = rng.choice(files) if files else "missing.txt"
    match rng.choice(("write", "write", "edit", "read", "glob", "grep", "todo", "both")):
        case "write":
            files.append(f"{rng.choice(('', 'sub/', 'a b/'))}file{rng.randint(0, 9)}.txt")
            return [_call("write", filePath=f"{{dir}}/{files[-1]}", content=f"first line\n{_text(rng)}\n")]
        case "edit":
            return [_call("edit", filePath=f"{{dir}}/{known}", oldString="first", newString=rng.choice(_WORDS))]
        case "read":
            return [_call("read", filePath=f"{{dir}}/{known}")]
        case "glob":
            return [_call("glob", pattern="**/*.txt")]
        case "grep":
            return [_call("grep", pattern="line|alpha")]
        case "todo":
            item = {"content": _text(rng), "status": "in_progress", "priority": "high"}
            return [_call("todowrite", todos=[item, {**item, "status": "pending"}])]
    return [{"tools": [_call("read", filePath=f"{{dir}}/{known}"), _call("glob", pattern="*")], "say": _text(rng)}]


def _bash(commands: tuple[str, ...]) -> Callable[[random.Random, list[str]], list[Step]]:
    def make(rng: random.Random, files: list[str]) -> list[Step]:
        return [_call("bash", command=rng.choice(commands).format(n=rng.randint(1, 9)), description="drawn")]

    return make


def _tests(rng: random.Random, files: list[str]) -> list[Step]:
    """Run the tests, or mend what makes one fail: which works once, and fails from then on."""
    if rng.random() < 0.7:
        return _bash(_TESTS)(rng, files)
    read = _call("read", filePath="{dir}/calc.py")
    return [read, _call("edit", filePath="{dir}/calc.py", oldString="a - b", newString="a + b")]


def _subagents(rng: random.Random, files: list[str]) -> list[Step]:
    """One or two subagents, each with steps of its own; two work at the same time, in folders of their own."""
    made = []
    for number in range(rng.choice((1, 1, 2))):
        folder = f"agent{number}-{rng.randint(0, 99)}"
        inner = [
            _call("bash", command=f"mkdir -p {folder} && echo {rng.choice('abc')} >> {folder}/a.txt", description="d"),
            _call("read", filePath=f"{{dir}}/{folder}/a.txt"),
            {"say": _text(rng)},
        ]
        made.append(_call("task", description=folder, prompt=prompt(*inner), subagent_type="general"))
    return [{"tools": made}]


def _mcp(rng: random.Random, files: list[str]) -> list[Step]:
    zone = rng.choice(("Asia/Tokyo", "Europe/Berlin", "No/Where"))
    if rng.random() < 0.3:
        return [_call("time_get_current_time", timezone=zone)]
    return [_call("time_convert_time", source_timezone="UTC", time=f"1{rng.randint(0, 9)}:00", target_timezone=zone)]


def _images(rng: random.Random, files: list[str]) -> list[Step]:
    name, data = f"image{rng.randint(0, 9)}.png", base64.b64encode(_png(rng)).decode()
    make = _call("bash", command=f"echo {data} | base64 -d > {name}; cksum {name}", description="drawn")
    return [make, _call("read", filePath=f"{{dir}}/{name}")]


_MAKERS: dict[str, Callable[[random.Random, list[str]], list[Step]]] = {
    "files": _files,
    "shell": _bash(_SHELL),
    "git": _bash(_GIT),
    "tests": _tests,
    "subagents": _subagents,
    "mcp": _mcp,
    "images": _images,
}


def _call(tool: str, **args: Any) -> Step:
    return {"tool": tool, "args": args}


def _text(rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 30)))


def _png(rng: random.Random) -> bytes:
    """Return a small picture in one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = rng.randint(4, 40)
    rows = (b"\0" + bytes(rng.randrange(256) for _ in range(3)) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
