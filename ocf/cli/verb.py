"""A verb that talks to a gateway: the options that all of them have, and what they share.

`verb` makes a command of a coroutine: it adds --project, --data-dir and --json, builds the request's body from a table
of options before anything is sent, connects, and exits with the returned status.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ocf.cli.common import DataDir, JsonFlag, Project, local_time, print_json, printable, run
from ocf.cli.options.body import Option, build
from ocf.cli.options.ids import EXECUTION, SESSION, Kind, whole_id

if TYPE_CHECKING:
    from ocf.events.client.gateway import GatewayClient

Execution = Annotated[str, typer.Argument(metavar="ID", help="The execution's id, or its beginning."), EXECUTION]
Session = Annotated[str, typer.Argument(metavar="ID", help="The session's id, or its beginning."), SESSION]


@dataclass
class Call:
    """One use of a verb: its gateway, its project, the body that its options describe, and whether --json was given."""

    gateway: GatewayClient
    json: bool
    body: dict[str, Any]

    @property
    def project(self) -> str:
        """Return the project of --project, else of the body, else the default."""
        return self.gateway.address.project

    async def answer(self, method: str, path: str, body: object = None) -> int:
        """Make one call and print its answer."""
        return self.show(await self.gateway.call(method, path, body=body))

    def none(self, things: str) -> int:
        """Say that the project has no such things, for a list that is empty."""
        sys.stdout.write(f"no {things} in project {self.project}\n")
        return 0

    def show(self, answer: dict[str, Any] | None) -> int:
        """Print an answer: JSON, or one line for each field."""
        if self.json:
            print_json(answer)
        else:
            width = max((14, *map(len, answer or {})))
            for name, value in (answer or {}).items():
                sys.stdout.write(f"{name:{width}} {printable(_shown(name, value))}\n")
        return 0


def _shown(name: str, value: object) -> str:
    """Return a field of an answer for a terminal."""
    if value is None:
        return "-"
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return local_time(value) if name.endswith("_at") else value


def verb(
    options: Sequence[Option] = (),
    body: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    within: str | None = None,
) -> Callable[[Callable[..., Awaitable[int]]], Callable[..., None]]:
    """Make a command of a coroutine that takes a `Call` and options, and returns the exit status.

    Args:
        options: Options that describe the request's body, `Call.body`.
        body: Builds it from the values of `options`, instead of `build`.
        within: Field of the body that has the ids, for a body with an object around them.
    """

    def decorate(work: Callable[..., Awaitable[int]]) -> Callable[..., None]:
        own = _parameters(work)[1:]
        ids = {parameter.name: kind for parameter in own if (kind := _kind(parameter)) is not None}

        def command(**given: Any) -> None:
            project, data_dir, json_output = (given.pop(name) for name in ("project", "data_dir", "json_output"))
            values = {option.name: given.pop(option.name) for option in options}
            made = body(values) if body else build(options, values)

            async def with_whole_ids(gateway: GatewayClient) -> int:
                for option in options:
                    if option.kind and values[option.name] is not None:
                        whole = await whole_id(gateway, option.kind, values[option.name])
                        option.put_id(made[within] if within else made, whole)
                for name, kind in ids.items():
                    if given[name] is not None:
                        given[name] = await whole_id(gateway, kind, given[name])
                return await work(Call(gateway, json_output, made), **given)

            connected(with_whole_ids, project or made.get("project_id"), data_dir)

        described = [*(option.parameter() for option in options), *own, *_COMMON]
        command.__name__, command.__doc__ = work.__name__, work.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in described}
        command.__signature__ = inspect.Signature(described)  # type: ignore[attr-defined]
        return command

    return decorate


def connected(work: Callable[[GatewayClient], Awaitable[int]], project: str | None, data_dir: Path | None) -> None:
    """Run `work` with the gateway, and exit with its status."""
    from ocf.cli.where import report, where
    from ocf.events.client.gateway import connect

    async def connect_and_work() -> int:
        async with connect(lambda: where(project, data_dir), report) as gateway:
            return await work(gateway)

    run(connect_and_work())


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
    ]


def _common(project: Project = None, data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Have the options of every verb."""


def _kind(parameter: inspect.Parameter) -> Kind | None:
    """Return the kind of the thing whose id it takes."""
    found = getattr(parameter.annotation, "__metadata__", ())
    return next((one for one in found if isinstance(one, Kind)), None)


_COMMON = _parameters(_common)
