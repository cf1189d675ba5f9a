"""Contexts: named gateways with the source of a token, in one file that only its owner can read."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocf.cli.common import MAX_TOKEN_BYTES, checked_token
from ocf.events.client.gateway_retry import CallFailed
from ocf.events.errors import InvalidEvent
from ocf.events.untrusted_json import KIB, JsonLimit, parse_json

if TYPE_CHECKING:
    from ocf.cli.oidc import OidcClient

FILE = "OCF_CONTEXTS"
_LIMIT = JsonLimit(bytes=1024 * KIB, depth=8, values=10_000)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
#: Seconds that a token command may take; it may ask its user something.
_COMMAND_SECONDS = 120.0


@dataclass(frozen=True)
class Context:
    """A gateway, the project of its calls, and where its token comes from: a file, a command, or a login by OIDC."""

    gateway: str
    project: str | None = None
    token_file: str | None = None
    token_command: str | None = None
    oidc_issuer: str | None = None
    oidc_client_id: str | None = None
    oidc_scope: str | None = None
    oidc_audience: str | None = None

    @property
    def oidc(self) -> OidcClient | None:
        """Return the client of its issuer; None without one."""
        if self.oidc_issuer is None:
            return None
        from ocf.cli.oidc import OidcClient

        return OidcClient(self.oidc_issuer, self.oidc_client_id or "", self.oidc_scope or "", self.oidc_audience)

    def token(self, name: str) -> str | None:
        """Return the token; None without a source. `name` is that of the context.

        Raises:
            CallFailed: The file cannot be read, the command fails, the login has ended, or the result is not a token.
        """
        if self.token_file is not None:
            try:
                with Path(self.token_file).expanduser().open("rb") as file:
                    text = file.read(MAX_TOKEN_BYTES + 1)
            except OSError as error:
                raise CallFailed(f"context {name}: token file {self.token_file}: {error.strerror}") from None
            return checked_token(text.decode(errors="replace"), f"context {name}: token file {self.token_file}")
        if self.token_command is not None:
            return checked_token(_output(self.token_command, name), f"context {name}: output of its token command")
        if (client := self.oidc) is not None:
            from ocf.cli import login_store

            return login_store.token(login_folder(name), client, name)
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


def login_folder(name: str) -> Path:
    """Return the folder of a context's login, beside the file of contexts."""
    return path().parent / "logins" / checked_name(name)


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
    from ocf.stack.keys import write_private

    place = path()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(place, json.dumps(asdict(contexts), indent=1))


def checked_url(url: str, source: str) -> str:
    """Return a gateway's URL without a final slash. Raises CallFailed, which names `source`, for another text."""
    if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
        raise CallFailed(f"{source}: {url!r} is not a gateway URL such as http://127.0.0.1:3003")
    return url.rstrip("/")


def checked_name(name: str) -> str:
    """Return `name`. Raises CallFailed if a context cannot have it."""
    if not _NAME.fullmatch(name):
        raise CallFailed(f"{name!r} is not a name of a context: 1 to 63 letters, digits and . _ @ -")
    return name


def listed(contexts: Contexts) -> list[dict[str, Any]]:
    """Return each context as an object, with its name and the state of its login, without a token."""
    return [
        {"name": name, "current": name == contexts.current, **asdict(context), "login": _login(name, context)}
        for name, context in sorted(contexts.contexts.items())
    ]


def _login(name: str, context: Context) -> dict[str, Any] | None:
    if context.oidc_issuer is None:
        return None
    from ocf.cli import login_store

    found = login_store.read(login_folder(name))
    if found is None:
        return None
    ends = datetime.fromtimestamp(found.expires_at).astimezone()
    return {"expires_at": ends.isoformat(timespec="seconds"), "renewed": found.refresh_token is not None}


def _output(command: str, name: str) -> str:
    failed = f"context {name}: token command {command!r}"
    try:
        # stderr stays: the command may ask its user something.
        words, limit = shlex.split(command) or [""], _COMMAND_SECONDS
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=limit, check=False, text=True, errors="replace")
    except subprocess.TimeoutExpired:
        raise CallFailed(f"{failed}: no answer within {_COMMAND_SECONDS:.0f} s") from None
    except (OSError, ValueError) as error:
        raise CallFailed(f"{failed}: {error}") from None
    if done.returncode:
        raise CallFailed(f"{failed}: exit status {done.returncode}")
    return done.stdout
