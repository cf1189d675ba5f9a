"""`ocf trigger ...`, `ocf schedule ...`, `ocf hook ...`: tasks from events and by the clock; who may send events."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ocf.cli import standard_streams
from ocf.cli.common import console, fail, local_time, plain, print_json, printable
from ocf.cli.options.body import Option
from ocf.cli.options.task import TASK_OPTIONS, task_body
from ocf.cli.verb import Call, verb

app = typer.Typer(no_args_is_help=True, help="Rules: which event starts which task.")
schedules = typer.Typer(no_args_is_help=True, help="Schedules: tasks at the times of a cron expression.")
hooks = typer.Typer(no_args_is_help=True, help="Hooks: webhooks and Knative sources that may send events.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]
Kind = Annotated[str, typer.Argument(metavar="KIND", help="github, gitlab, gitea, generic or knative.")]
Of = Annotated[str, typer.Argument(metavar="PROJECT", help="Project of the hook.")]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Its source in `ocf hook list`: the kind, or a name.")]


@app.command()
@verb()
async def apply(
    call: Call,
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="YAML with one or more rules; - is stdin.")],
) -> int:
    """Store the rules of a file; a rule of the same name is replaced."""
    for rule in documents(file):
        stored = await call.gateway.call("POST", "/triggers", body={"project_id": call.project, **rule})
        if call.json:
            print_json(stored)
        else:
            sys.stdout.write(f"{rule.get('name')}\n")
    return 0


def documents(file: str) -> list[dict[str, Any]]:
    """Return the objects of a YAML file; exit with one line if it has anything else, or a value that JSON lacks."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads dates as the texts that they are in JSON."""

    Loader.yaml_implicit_resolvers = {
        first: [one for one in resolvers if one[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        found = [one for one in yaml.load_all(text, Loader) if one is not None]
    except OSError as error:
        fail(standard_streams.of_os(error))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        fail(f"{file}: {error}")
    if not found or not all(isinstance(one, dict) for one in found):
        fail(f"{file}: must hold YAML objects, one for each rule")
    for number, one in enumerate(found, 1):
        try:
            json.dumps(one, allow_nan=False)
        except (TypeError, ValueError) as error:
            fail(f"{file}: rule {one.get('name') or number}: {error}; values must be those of JSON")
    # YAML 1.1 reads the key `on` as true.
    return [{"on" if key is True else key: value for key, value in one.items()} for one in found]


@app.command("list")
@verb()
async def list_(call: Call) -> int:
    """List the rules with their matches."""
    found = (await call.gateway.call("GET", "/triggers", project_id=call.project))["triggers"]
    if call.json:
        print_json({"triggers": found})
        return 0
    if not found:
        return call.none("rules")
    screen = console()
    for rule in found:
        event = rule.get("last_event")
        last = local_time(event["time"]) if event else "never"
        on = " ".join(
            f"{name} {plain(rule['on'][name])}" for name in ("type", "source", "subject") if name in rule["on"]
        )
        screen.print(f"[bold]{plain(rule['name'])}[/]  {on}  matched {rule['matched']}, last {last}", highlight=False)
        polled = rule.get("polled") or {}
        if polled:
            screen.print(f"   polled {local_time(polled['polled_at'])}", highlight=False)
        for problem in filter(None, (rule.get("problem"), polled.get("problem"))):
            screen.print(f"   [red]{plain(problem)}[/]", highlight=False)
    return 0


@app.command()
@verb()
async def test(
    call: Call,
    name: Name,
    event: Annotated[str, typer.Option("--event", "-e", metavar="FILE", help="CloudEvent as JSON; - is stdin.")],
) -> int:
    """Show the submits that a rule would publish for an event. Nothing is published."""
    try:
        body = json.loads(sys.stdin.read() if event == "-" else Path(event).read_text())
    except (OSError, ValueError) as error:
        fail(f"{event}: {error}")
    found = await call.gateway.call("POST", f"/triggers/{name}/test", body=body, project_id=call.project)
    if call.json:
        print_json(found)
    else:
        sys.stdout.write(printable(json.dumps(found["submits"], indent=2, ensure_ascii=False)) + "\n")
        if found["mismatch"]:
            sys.stdout.write(f"no match: {printable(found['mismatch'])}\n")
    return 0


@app.command()
@verb()
async def delete(call: Call, name: Name) -> int:
    """Remove a rule."""
    return call.show(await call.gateway.call("DELETE", f"/triggers/{name}", project_id=call.project))


@hooks.command()
@verb()
async def create(
    call: Call,
    of: Of,
    kind: Kind,
    source: Annotated[str | None, typer.Option("--source", help="Name of one of several Knative sources.")] = None,
) -> int:
    """Create a hook. URL and secret are shown once."""
    named = {"source": source} if source else {}
    return await call.answer("POST", "/hooks", {"project_id": of, "kind": kind, **named})


@hooks.command("list")
@verb()
async def list_hooks(call: Call, of: Of) -> int:
    """List the hooks of a project, without their secrets."""
    found = await call.gateway.call("GET", "/hooks", project_id=of)
    if call.json:
        print_json(found)
        return 0
    if not found["hooks"]:
        sys.stdout.write(f"no hooks in project {of}\n")
    for hook in found["hooks"]:
        ends = [local_time(one["expires_at"]) for one in hook["secrets"] if one["expires_at"]]
        until = f"; the earlier one until {ends[0]}" if ends else ""
        made = local_time(hook["secrets"][0]["created_at"])
        sys.stdout.write(f"{printable(hook['source'])}  secret of {made}{until}\n")
    return 0


@hooks.command()
@verb()
async def rotate(call: Call, of: Of, source: Source) -> int:
    """Make a new secret. The one before it stays valid for a day."""
    return await call.answer("POST", f"/hooks/{of}/{source}/rotate")


@hooks.command("delete")
@verb()
async def delete_hook(call: Call, of: Of, source: Source) -> int:
    """Remove a hook; its secrets are refused from then on."""
    return await call.answer("DELETE", f"/hooks/{of}/{source}")


_SCHEDULE = (
    Option("NAME", "name", "Name of the schedule."),
    Option("--cron", "cron", "Minute, hour, day of the month, month, day of the week.", extra={"metavar": "FIELDS"}),
    Option("--timezone", "timezone", "Time zone such as Europe/Berlin; else UTC."),
    Option("--overlap", "overlap", "While an earlier execution runs: skip (default), queue or cancel."),
)


def _schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("name", "cron"):
        if given[name] is None:
            raise typer.BadParameter(f"{'NAME' if name == 'name' else '--cron'} is required")
    own = {option.field: given[option.name] for option in _SCHEDULE if given[option.name] is not None}
    return {**own, "task": task_body(given)}


@schedules.command("create")
@verb((*_SCHEDULE, *TASK_OPTIONS), _schedule, within="task")
async def create_schedule(call: Call) -> int:
    """Store a schedule; one of the same name is replaced. The task is described as for `ocf submit`."""
    return await call.answer("POST", "/schedules", {"project_id": call.project, **call.body})


@schedules.command("list")
@verb()
async def list_schedules(call: Call) -> int:
    """List the schedules with their next runs."""
    found = await call.gateway.call("GET", "/schedules", project_id=call.project)
    if call.json:
        print_json(found)
        return 0
    if not found["schedules"]:
        return call.none("schedules")
    for one in found["schedules"]:
        due = "paused" if one["paused"] else f"next {local_time(one['next'])[:16] if one['next'] else 'never'}"
        last = (one["last"] or {}).get("id", "never")
        line = f"{one['name']}  {one['cron']} {one['timezone']}  {due}  last {last}"
        sys.stdout.write(printable(line) + "\n")
    return 0


def _schedule_verb(method: str, what: str) -> Callable[..., None]:
    async def change(call: Call, name: Annotated[str, typer.Argument(metavar="NAME")]) -> int:
        return call.show(await call.gateway.call(method, f"/schedules/{name}{what}", project_id=call.project))

    return verb()(change)


schedules.command("pause", help="Start nothing until the schedule is resumed.")(_schedule_verb("POST", "/pause"))
schedules.command("resume", help="Go on; ticks of the pause are not made up for.")(_schedule_verb("POST", "/resume"))
schedules.command("delete", help="Remove a schedule.")(_schedule_verb("DELETE", ""))
