"""Options of a command line that each set one field of a request's body."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ocf.cli.options.ids import Kind

#: Panels of `--help`, by the first part of the field.
_PANELS = {
    "workspace": "Workspace",
    "from_execution_id": "Workspace",
    "model_config": "Model",
    "agent": "Agent",
    "agents": "Agent",
    "skills": "Agent",
    "commands": "Agent",
    "mcp": "Agent",
    "setup": "Workspace",
    "secrets": "Permissions",
    "limits": "Limits",
    "retry": "Limits",
    "permissions": "Permissions",
    "network": "Permissions",
}


@dataclass(frozen=True)
class Option:
    """An option of a command line that sets one field of a request's body.

    Args:
        flag: Its name, `--timeout`; without dashes it is an argument.
        field: Path of the field that it sets, `limits.timeout_seconds`; empty for the whole body.
        help: Its line in `--help`.
        type: Type of its value.
        read: Turns the value into the field's. Raises ValueError with what would be right.
        extra: More arguments of `typer.Option`.
        merge: Add to the object that the field already has, instead of replacing it.
        source: The kind of workspace that it belongs to.
        kind: What its value is the id of; a beginning of the id is enough.
        id_field: Path of that id, if it is not the whole field.
    """

    flag: str
    field: str
    help: str
    type: Any = str
    read: Callable[[Any], Any] | None = None
    extra: Mapping[str, Any] | None = None
    merge: bool = False
    source: str | None = None
    kind: Kind | None = None
    id_field: str | None = None

    @property
    def name(self) -> str:
        """Return the name of its parameter."""
        name = self.flag.strip("-").replace("-", "_").lower()
        return f"{name}_" if keyword.iskeyword(name) else name

    def parameter(self) -> inspect.Parameter:
        """Return it as a parameter that Typer understands."""
        extra = dict(self.extra or {})
        flags = [self.flag, *extra.pop("also", ())]
        panel = _PANELS.get(self.field.split(".")[0])
        info = typer.Option(*flags, help=self.help, rich_help_panel=panel, **extra)
        if not self.flag.startswith("-"):
            info = typer.Argument(metavar=self.flag, help=self.help, show_default=False, **extra)
        kind, default = (bool, False) if self.type is bool else (self.type | None, None)
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default
        )

    def put(self, body: dict[str, Any], given: object) -> None:
        """Set its field in `body`.

        Raises:
            BadParameter: The value is wrong, or the body has another kind of workspace; names option and field.
        """
        try:
            value: Any = self.read(given) if self.read else given
            if not self.field:
                body.update(value)
                return
            at, *path = body, *self.field.split(".")
            for name in path[:-1]:
                at = at.setdefault(name, {})
                if not isinstance(at, dict):
                    raise ValueError(f"{name} must be an object in --file")
            if self.source and at.get("source") != self.source:
                raise ValueError(f"belongs to --{self.source}")
            before = at.get(path[-1]) if self.merge else None
            at[path[-1]] = {**before, **value} if isinstance(before, dict) else value
        except ValueError as error:
            field = f" (field {self.field})" if self.field else ""
            raise typer.BadParameter(f"{self.flag}{field}: {error}") from None

    def put_id(self, body: dict[str, Any], whole: str) -> None:
        """Replace the beginning of an id in `body` by the whole id."""
        *path, last = (self.id_field or self.field).split(".")
        for name in path:
            body = body[name]
        body[last] = whole


def build(options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that the options of a command line describe, in the order of the table."""
    body: dict[str, Any] = {}
    for option in options:
        value = given[option.name]
        if value is not None and value is not False and value != []:
            option.put(body, value)
    return body
