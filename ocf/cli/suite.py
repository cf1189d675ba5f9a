"""`ocf suite run FILE`: recorded executions, run again as a set."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree

import typer

from ocf.cli.bundles import MEDIA_TYPE
from ocf.cli.common import console, fail, plain, print_json, printable
from ocf.cli.options.task import SUITE_OPTIONS
from ocf.cli.verb import Call, verb

if TYPE_CHECKING:
    from ocf.cli.suite_file import Entry, Suite
    from ocf.events.client.gateway import GatewayClient

app = typer.Typer(no_args_is_help=True, help="Suites: recorded executions that must go on doing the same.")

SAME, DIVERGED, OTHER, FAILED = "same", "diverged", "other result", "failed"
_STYLES = {SAME: ("✓", "green"), DIVERGED: ("✗", "red"), OTHER: ("✗", "red"), FAILED: ("■", "red")}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The suite, in YAML.")]


@dataclass
class Row:
    """Result of one execution of a suite. `call` is the first one whose request was not as recorded."""

    name: str
    result: str = FAILED
    call: int | None = None
    differences: int = 0
    message: str = ""
    execution_id: str | None = None
    rerun_of: str | None = None
    seconds: float = 0.0

    @property
    def said(self) -> str:
        """Return the result as people read it."""
        return f"{DIVERGED} at call {self.call}" if self.result == DIVERGED and self.call is not None else self.result


@app.command("run")
@verb(SUITE_OPTIONS)
async def run_(
    call: Call,
    file: File,
    agent_version: Annotated[
        str | None, typer.Option("--agent-version", metavar="V", help="The OpenCode that the stack must have.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Reruns at once.")] = 2,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there.")] = None,
) -> int:
    """Run the recorded executions of a suite again, without key and cost, and say whether each does the same.

    Exit status: 0 all are the same, 1 otherwise. A bundle is imported, and the reruns stay, for `ocf compare`.
    """
    from ocf.cli.suite_file import read

    suite = read(file)
    if junit is not None and not junit.parent.is_dir():
        fail(f"--junit: the folder {junit.parent} does not exist")
    await _check_agent(call.gateway, agent_version)
    turns, imports = asyncio.Semaphore(parallel), asyncio.Lock()

    async def one(entry: Entry) -> Row:
        async with turns:
            row, begun = Row(entry.name), time.monotonic()
            await _run(call, file, suite, entry, row, imports)
            row.seconds = round(time.monotonic() - begun, 1)
            if sys.stderr.isatty():
                sys.stderr.write(f"{printable(row.name)}: {row.said}\n")
            return row

    rows = await asyncio.gather(*(one(entry) for entry in suite.executions))
    same = all(row.result == SAME for row in rows)
    if call.json:
        print_json({"same": same, "executions": [asdict(row) for row in rows]})
    else:
        _print(rows)
    if junit:
        try:
            junit.write_bytes(as_junit(file.name, rows))
        except OSError as error:  # the results are printed
            fail(f"--junit: {junit} cannot be written: {error.strerror}")
    return 0 if same else 1


async def _check_agent(gateway: GatewayClient, wanted: str | None) -> None:
    if wanted is None:
        return
    found = (await gateway.call("GET", "/models", provider="offline")).get("agent_version")
    if found != wanted:
        fail(f"--agent-version: the stack has OpenCode {found or 'of an unknown version'}, not {wanted}")


async def _run(call: Call, file: Path, suite: Suite, entry: Entry, row: Row, imports: asyncio.Lock) -> None:
    """Run one execution again and fill its row. What goes wrong with it is its own failure."""
    from ocf.cli.suite_file import bundle_of
    from ocf.events.errors import OcfError

    gateway, same = call.gateway, entry.same or suite.same
    try:
        row.rerun_of = entry.execution
        if entry.bundle is not None:
            async with imports:  # a gateway takes one at a time of a caller
                bundle = await asyncio.to_thread(bundle_of, file, entry)
                row.rerun_of = str((await gateway.upload("/bundles", bundle, MEDIA_TYPE))["execution_id"])
        body = {**call.body, "on_divergence": entry.on_divergence or suite.on_divergence}
        row.execution_id = (await gateway.call("POST", f"/tasks/{row.rerun_of}/rerun", body=body))["execution_id"]
        async for _ in gateway.watch(row.execution_id):
            pass
        before, again = [await gateway.lasting(f"/tasks/{one}/status") for one in (row.rerun_of, row.execution_id)]
        compared = await gateway.call("GET", f"/tasks/{row.rerun_of}/compare/{row.execution_id}")
    except (OcfError, OSError) as error:
        row.message = str(error)
        return
    judge(row, same, before, again, compared)


def judge(row: Row, same: list[Any], before: dict[str, Any], again: dict[str, Any], compared: dict[str, Any]) -> None:
    """Fill a row with the result: the statuses of both executions and their comparison decide."""
    rerun = again.get("rerun") or {}
    found = rerun.get("divergences") or []
    row.call, row.differences = (found[0]["call"] if found else None), len(found) + (rerun.get("more") or 0)
    row.message = f"{row.differences} requests differ, first in call {row.call}" if found else ""
    one, two = compared["a"], compared["b"]
    missing = one["missing"] + two["missing"]
    differs = {
        "diff": "files" in compared["differs"],
        "result": _result(before) != _result(again),
        "calls": one["calls"] != two["calls"],
    }
    wrong = [part for part in same if differs[part]]
    ended = [(status["status"], status.get("reason")) for status in (before, again)]
    if again.get("reason") == DIVERGED or (found and (wrong or ended[0] != ended[1])):
        row.result = DIVERGED
    elif ended[0] != ended[1]:
        row.result = FAILED if again["status"] != "completed" else OTHER
        row.message = f"was {_ending(before)}, is {_ending(again)}"
    elif missing and set(same) != {"result"}:
        row.message = f"not compared: {', '.join(missing)}"
    elif wrong:
        row.result, row.message = OTHER, f"not the same: {', '.join(wrong)}"
    else:
        row.result = SAME


def _result(status: dict[str, Any]) -> tuple[Any, str]:
    from ocf.functions.core.execution_comparison import WORKSPACE

    return status.get("output"), WORKSPACE.sub(".", status.get("result") or "")


def _ending(status: dict[str, Any]) -> str:
    return " ".join(str(status[name]) for name in ("status", "reason", "message") if status.get(name))


def _print(rows: list[Row]) -> None:
    from ocf.cli.render import listing

    screen, cells = console(), []
    for row in rows:
        mark, style = _STYLES[row.result]
        short = (row.execution_id or "-")[:8]
        said = f"[{style}]{row.said}[/]"
        cells.append((f"[{style}]{mark}[/]", plain(row.name), said, short, f"{row.seconds} s", plain(row.message)))
    screen.print(listing(("name", "result", "rerun", "took", ""), cells, screen.width))
    count = sum(row.result == SAME for row in rows)
    screen.print(f"{count} of {len(rows)} are the same", highlight=False)


def as_junit(name: str, rows: list[Row]) -> bytes:
    """Return JUnit XML: a failure for each execution that did something else, an error for each that could not run."""
    root = ElementTree.Element("testsuites")
    counts = {
        "tests": len(rows),
        "failures": sum(row.result in (DIVERGED, OTHER) for row in rows),
        "errors": sum(row.result == FAILED for row in rows),
        "skipped": 0,
        "time": round(sum(row.seconds for row in rows), 1),
    }
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(name), **{k: str(v) for k, v in counts.items()}})
    for row in rows:
        about = {"name": _xml(row.name), "classname": _xml(name), "time": str(row.seconds)}
        case = ElementTree.SubElement(suite, "testcase", about)
        if row.result != SAME:
            kind = "error" if row.result == FAILED else "failure"
            said = _xml(f"{row.said}: {row.message}" if row.message else row.said)
            about = {"message": said, "type": row.result}
            ElementTree.SubElement(
                case, kind, about
            ).text = f"{said}\nrerun {row.execution_id or '-'} of {row.rerun_of or '-'}"
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _xml(text: str) -> str:
    return _NOT_XML.sub("", printable(text))
