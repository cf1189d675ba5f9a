"""`ocf doctor`: shows missing parts and commands that fix them. `ocf encrypt-key`: seals a model key for the bus."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocf.cli.common import DEFAULT_PROJECT, DataDir, JsonFlag, Project, fail, local_directory, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocf.stack.state import Running

_MIN_PYTHON = (3, 11)
_MIN_FREE = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """Result of one check. A `needed` one that is not ok makes doctor exit 1."""

    name: str
    ok: bool
    said: str
    fix: str = ""
    needed: bool = True


def doctor(data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Show what is missing, and the exact command that fixes it. Exits 1 when something needed is missing.

    Checks programs, the kernel's sandbox support, disk space, and the stack of the data directory. The settings shown
    (secrets masked) are those that the stack was started with; without a stack, those of this shell.
    """
    place = local_directory(data_dir).resolve()
    found, stack = _stack(place)
    settings, problem = (dict(found.settings), "") if found else _settings()
    findings = [*_python(), *_programs(), *_sandbox(str(settings.get("SANDBOX") or "required")), *_disk(place)]
    findings += [*_boundary(place, found), stack]
    findings.append(
        Finding("environment", not problem, problem or "well-formed", fix=problem and "correct the variable")
    )
    findings.append(_model(settings))
    healthy = all(finding.ok or not finding.needed for finding in findings)
    source = f"of the stack that runs in {place}" if found else "of this shell: no stack runs there to ask"
    if json_output:
        checks = [asdict(finding) for finding in findings]
        of = "stack" if found else "shell"
        print_json({"ok": healthy, "checks": checks, "settings_of": of, "settings": settings})
    else:
        _show(findings, settings, source)
    raise typer.Exit(0 if healthy else 1)


def encrypt_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The secret; `-` (default) reads it from stdin.")] = "-",
    generate: Annotated[bool, typer.Option("--generate", help="Print a new ENCRYPTION_KEY instead.")] = False,
    project: Project = None,
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Seal a model key with ENCRYPTION_KEY, for `model_config.api_key` of a command on the bus.

    It can be opened for this project only. The key is ENCRYPTION_KEY, or that of the data directory's stack. Over the
    gateway you may send a plain key: the gateway seals it.
    """
    import base64
    import secrets

    from ocf.events.sealing import Keyring

    if generate:
        made = base64.b64encode(secrets.token_bytes(32)).decode()
        if json_output:
            print_json({"encryption_key": made})
        else:
            sys.stdout.write(made + "\n")
        return
    place = local_directory(data_dir)
    master = os.environ.get("ENCRYPTION_KEY") or _stack_key(place)
    if not master:
        fail("no ENCRYPTION_KEY; make one with: export ENCRYPTION_KEY=$(ocf encrypt-key --generate)", 2)
    secret = sys.stdin.readline().strip() if key == "-" else key
    if not secret:
        fail("nothing to seal: the key is empty", 2)
    try:
        sealed = Keyring(master).seal(secret, project or DEFAULT_PROJECT)
    except ValueError as error:
        fail(f"ENCRYPTION_KEY: {error}", 2)
    print_json(sealed.model_dump(mode="json", exclude_none=True))


def _stack_key(data_dir: Path) -> str | None:
    import json

    path = data_dir / "keys.json"
    return str(json.loads(path.read_text())["encryption_key"]) if path.is_file() else None


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= _MIN_PYTHON, version, "install Python 3.11 or newer")


def _programs() -> Iterator[Finding]:
    from ocf.stack.tools import inventory

    for tool in inventory():
        result = str(tool.path) if tool.path else f"missing: {tool.why}"
        yield Finding(tool.name, tool.path is not None, result, "" if tool.path else tool.fix, tool.needed)


def _sandbox(mode: str) -> Iterator[Finding]:
    from ocf.functions.execute.sandbox.policy import sandbox_support

    support = sandbox_support()
    parts = {
        "files": support.filesystem,
        "network": support.network,
        "signals": support.signals,
        "system calls": support.seccomp,
    }
    enforced = {name: there and mode != "off" for name, there in parts.items()}
    result = f"SANDBOX={mode}, Landlock ABI {support.landlock_abi}; enforced: "
    result += ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in enforced.items())
    missing = "; ".join(support.missing)
    fix = "a Linux kernel of 6.12 or newer; or SANDBOX=preferred for what this one can" if missing else ""
    yield Finding(
        "sandbox",
        not support.missing and mode != "off",
        f"{result}{'; missing: ' + missing if missing else ''}",
        "unset SANDBOX" if mode == "off" else fix,
        needed=mode == "required",
    )


def _boundary(place: Path, found: Running | None) -> Iterator[Finding]:
    """Yield the boundary between executions: the running stack's, or that of a stack started from this shell."""
    import json

    import httpx2

    from ocf.functions.execute.sandbox.isolation_boundary import OWN_CONTAINER, OWN_USER, current_boundary
    from ocf.functions.settings.settings import load

    if found is None:
        try:
            kind, why = current_boundary(load())
        except ValueError:
            return  # the environment's own finding reports it
        result = f"{kind}: {why}" if why else kind
    else:
        try:
            port = json.loads((place / "ports.json").read_text())["execute"]
            answer = httpx2.get(f"http://127.0.0.1:{port}/ready", timeout=5, trust_env=False)
            result = str(answer.json()["checks"]["boundary"])
        except (OSError, ValueError, KeyError, httpx2.HTTPError) as error:
            result = f"unknown: the execute function does not answer ({type(error).__name__})"
    yield Finding(
        "boundary",
        result.startswith((OWN_CONTAINER, OWN_USER)),
        result,
        "run it as root: each execution has a user then",
        False,
    )


def _disk(place: Path) -> Iterator[Finding]:
    import shutil

    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    yield Finding("disk", free > _MIN_FREE, f"{free / 1024**3:.1f} GiB free at {place}", "free some disk space")
    yield Finding("writable", os.access(place, os.W_OK), str(place), "ocf up --data-dir DIR, one you may write")


def _stack(place: Path) -> tuple[Running | None, Finding]:
    """Return the stack of the directory, once its gateway has confirmed its identity."""
    from ocf.cli.where import NoStack, answering_stack
    from ocf.events.client.gateway_retry import Unreachable

    try:
        found = asyncio.run(answering_stack(place))
    except NoStack:
        return None, Finding("stack", False, f"not up in {place}", "ocf up", needed=False)
    except Unreachable as error:
        return None, Finding("stack", False, str(error), needed=False)
    return found, Finding("stack", True, f"up in {place}, gateway {found.gateway}", needed=False)


def _settings() -> tuple[dict[str, object], str]:
    """Return the settings by variable, secrets masked, and an error message if they are invalid."""
    from pydantic import ValidationError

    from ocf.functions.settings.settings import load, masked

    try:
        settings = load()
    except ValidationError as error:
        return {}, "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_input=False))
    return masked(settings), ""


def _model(settings: dict[str, object]) -> Finding:
    from ocf.stack.process_specs import OFFLINE_NOTICE, REAL_MODEL

    chosen = [name for name in REAL_MODEL if settings.get(name)]
    result = f"a real one: {', '.join(chosen)} set" if chosen else OFFLINE_NOTICE
    return Finding("model", bool(chosen), result, "" if chosen else "export ANTHROPIC_API_KEY=...", needed=False)


def _show(findings: list[Finding], settings: dict[str, object], source: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, show_header=False, pad_edge=False)
    for overflow in ("ignore", "ellipsis", "fold"):
        table.add_column(overflow=overflow)
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else ("[red]✗[/]" if finding.needed else "[yellow]–[/]")
        fix = f"\n[bold]→ {plain(finding.fix)}[/]" if finding.fix and not finding.ok else ""
        table.add_row(mark, finding.name, plain(finding.said) + fix)
    console.print(table)
    console.print(f"\n[dim]settings {plain(source)} (secrets masked)[/]", highlight=False)
    for name, value in settings.items():
        if value not in (None, "", (), []):
            console.print(f"  [dim]{name}[/]={plain(str(value))}", highlight=False)
