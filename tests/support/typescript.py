"""The TypeScript client as npm installs it, and programs that use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocf.stack.tools import node
from tests.support.console import CONSOLE, ROOT, build

CLIENT = ROOT / "clients/typescript"


def install(folder: Path) -> None:
    """Install the packed client, and nothing else, into an empty folder, without a registry."""
    build()
    (folder / "package.json").write_text(json.dumps({"name": "elsewhere", "private": True, "type": "module"}))
    npm = ROOT / "scripts/npm.sh"
    pack = [npm, "pack", "--silent", "--pack-destination", folder, CLIENT]
    packed = subprocess.run(pack, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()
    command = [npm, "install", "--offline", "--loglevel=error", f"./{packed}"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    brought = [one.name for one in (folder / "node_modules").iterdir() if not one.name.startswith(".")]
    assert brought == ["opencode-functions-client"]


def errors(folder: Path, *names: str) -> list[str]:
    """Errors of the compiler for programs, whose imports resolve as in Node; compiled they are `NAME.js`."""
    tsc = CONSOLE / "node_modules/typescript/bin/tsc"
    options = ["--module", "nodenext", "--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--strict"]
    types = ["--types", "node", "--typeRoots", CONSOLE / "node_modules/@types"]
    argv = [node(), tsc, *names, *options, *types]
    done = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    return [line for line in done.stdout.splitlines() if "error TS" in line]


@contextmanager
def started(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A compiled program that runs, and is gone with its pipes at the end of the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([node(), name, *arguments], cwd=folder, stdout=pipe, stderr=pipe, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def said(program: subprocess.Popen[str], timeout: float) -> list[str]:
    """The lines that a program prints, which must end well."""
    out, problems = program.communicate(timeout=timeout)
    assert program.returncode == 0, problems
    return out.splitlines()
