"""`ocf context ...`: named gateways with the source of a token, in one file that only its owner can read."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ocf.cli.common import JsonFlag, console, fail, plain, print_json
from ocf.events.client.outage import CallFailed
from ocf.events.errors import InvalidEvent
from ocf.events.input_limits import KIB, JsonLimit, parse_json

app = typer.Typer(no_args_is_help=True, help="Named gateways elsewhere, each with the source of its token.")

FILE = "OCF_CONTEXTS"
_LIMIT = JsonLimit(bytes=1024 * KIB, depth=8, values=10_000)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
#: A bearer token (RFC 6750, b64token).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_MAX_TOKEN_BYTES = 64 * KIB
#: Seconds that a token command may take; it may ask its user something.
_COMMAND_SECONDS = 120.0


@dataclass(frozen=True)
class Context:
    """A gateway, the project of its calls, and where its token comes from: a file, or the output of a command."""

    gateway: str
    project: str | None = None
    token_file: str | None = None
    token_command: str | None = None

    def token(self, name: str) -> str | None:
        """Return the token; None without a source. `name` is that of the context.

        Raises:
            CallFailed: The file cannot be read, the command fails, or the result is not a token.
        """
        if self.token_file is not None:
            try:
                with Path(self.token_file).expanduser().open("rb") as file:
                    text = file.read(_MAX_TOKEN_BYTES + 1)
            except OSError as error:
                raise CallFailed(f"context {name}: token file {self.token_file}: {error.strerror}") from None
            return checked_token(text.decode(errors="replace"), f"context {name}: token file {self.token_file}")
        if self.token_command is not None:
            return checked_token(_output(self.token_command, name), f"context {name}: output of its token command")
        return None


@dataclass(frozen=True)
class Contexts:
    """All contexts by name, and the current one."""

    current: str | None = None
    contexts: dict[str, Context] = field(default_factory=dict)

    def named(self, name: str) -> Context:
        """Return a context. Raises CallFailed with the known names."""
        if name not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise CallFailed(f"no context {name} (known: {known}); `ocf context add {name} --gateway URL` adds it")
        return self.contexts[name]


def path() -> Path:
    """Return the file: OCF_CONTEXTS, else `ocf/contexts.json` in XDG_CONFIG_HOME or `~/.config`."""
    if named := os.environ.get(FILE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ocf" / "contexts.json"


def load() -> Contexts:
    """Return the stored contexts; none without a file.

    Raises:
        CallFailed: The file is damaged; names it.
    """
    place = path()
    try:
        with place.open("rb") as file:
            data = file.read(_LIMIT.bytes + 1)
    except FileNotFoundError:
        return Contexts()
    try:
        found = parse_json(data, _LIMIT, str(place))
        texts = [found["current"], *(text for one in found["contexts"].values() for text in one.values())]
        if not all(isinstance(text, str | None) for text in texts):
            raise TypeError("a value is not a text")
        return Contexts(found["current"], {name: Context(**one) for name, one in found["contexts"].items()})
    except (InvalidEvent, KeyError, TypeError, AttributeError) as error:
        raise CallFailed(f"{place}: is not a file of contexts ({error}); correct or remove it") from None


def store(contexts: Contexts) -> None:
    """Write the file with mode 0600, at once or not at all."""
    place = path()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(contexts), file, indent=1)
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise


def checked_url(url: str, source: str) -> str:
    """Return a gateway's URL without a final slash. Raises CallFailed with `source` if it is none."""
    if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
        raise CallFailed(f"{source}: {url!r} is not a gateway URL such as http://127.0.0.1:3003")
    return url.rstrip("/")


def checked_name(name: str) -> str:
    """Return a context's name. Raises CallFailed if it is none."""
    if not _NAME.fullmatch(name):
        raise CallFailed(f"{name!r} is not a name of a context: 1 to 63 letters, digits and . _ @ -")
    return name


def checked_token(text: str, source: str) -> str:
    """Return a bearer token without surrounding space. Raises CallFailed with `source`, never with the text."""
    token = text.strip()
    if len(token) > _MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        raise CallFailed(f"{source}: is not a bearer token (letters, digits and - . _ ~ + / =)")
    return token


def listed(contexts: Contexts) -> list[dict[str, Any]]:
    """Return each context as an object, with its name, without a token."""
    return [{"name": n, "current": n == contexts.current, **asdict(c)} for n, c in sorted(contexts.contexts.items())]


def _output(command: str, name: str) -> str:
    failed = f"context {name}: token command {command!r}"
    try:
        # stderr stays: the command may ask its user something.
        words, limit = shlex.split(command) or [""], _COMMAND_SECONDS
        done = subprocess.run(
            words or [""], stdout=subprocess.PIPE, timeout=limit, check=False, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise CallFailed(f"{failed}: no answer within {_COMMAND_SECONDS:.0f} s") from None
    except (OSError, ValueError) as error:
        raise CallFailed(f"{failed}: {error}") from None
    if done.returncode:
        raise CallFailed(f"{failed}: exit status {done.returncode}")
    return done.stdout


Name = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]


@app.command()
def add(
    name: Name,
    gateway: Annotated[str, typer.Option("--gateway", metavar="URL", help="URL of its gateway.")],
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="File with the bearer token, read at each call.")
    ] = None,
    token_command: Annotated[
        str | None, typer.Option("--token-command", metavar="COMMAND", help="Command that prints the token.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Project of its calls.")] = None,
    json_output: JsonFlag = False,
) -> None:
    """Add a context, or replace it. The first one becomes the current one.

    The token itself is never stored: only the file or the command that has it.
    """
    if token_file is not None and token_command is not None:
        raise typer.BadParameter("--token-file and --token-command exclude each other: each gives the token")
    try:
        known = load()
        url = checked_url(gateway, "--gateway")
        made = Context(url, project, token_file, token_command)
        found = {**known.contexts, checked_name(name): made}
        _store(Contexts(known.current or name, found), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command()
def use(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The context's name.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Use the stack on this machine again.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Make a context the current one: verbs use its gateway where nothing else names one."""
    if (name is None) != none:
        raise typer.BadParameter("NAME or --none is required")
    try:
        known = load()
        if name is not None:
            known.named(name)
        _store(replace(known, current=name), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command("list")
def list_(json_output: JsonFlag = False) -> None:
    """List the contexts; the current one is marked."""
    try:
        _show(load(), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command()
def remove(name: Name, json_output: JsonFlag = False) -> None:
    """Remove a context. Its token file stays."""
    try:
        known = load()
        known.named(name)
        rest = {one: context for one, context in known.contexts.items() if one != name}
        _store(Contexts(None if known.current == name else known.current, rest), json_output)
    except CallFailed as error:
        fail(str(error))


def _store(found: Contexts, json_output: bool) -> None:
    store(found)
    _show(found, json_output)


def _show(found: Contexts, json_output: bool) -> None:
    items = listed(found)
    if json_output:
        print_json(items)
        return
    if not items:
        sys.stdout.write("no contexts; `ocf context add NAME --gateway URL` adds one\n")
        return
    from ocf.cli.render import listing as table

    screen = console()
    rows = [
        (
            "[green]*[/]" if item["current"] else " ",
            plain(item["name"]),
            plain(item["gateway"]),
            plain(item["project"] or ""),
            plain(item["token_file"] or item["token_command"] or "no token"),
        )
        for item in items
    ]
    screen.print(table(("name", "gateway", "project", "token"), rows, screen.width))
