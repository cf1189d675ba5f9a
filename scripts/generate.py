"""Everything that is generated from the code's tables: `python scripts/generate.py` writes, `--check` fails on drift.

schemas/*.json, schemas/asyncapi.yaml, schemas/openapi.json, and in docs/reference: events.md, lifecycle.md,
configuration.md, the tables of metrics.md and recording.md, console/src/stream/lifecycle-states.ts, and two modules of
events/client.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ocf.events import streams
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.event_types import TYPES
from ocf.events.lifecycle import (
    ATTEMPT,
    EXECUTION,
    SESSION,
    TERMINAL,
    AttemptState,
    LifeCycle,
    Reason,
    State,
)
from ocf.events.session_record import Session
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.database.store import History
from ocf.functions.dispatcher.project_consumers import IDLE_SECONDS, MAX_CONSUMERS
from ocf.functions.dispatcher.routes import ROUTES, backoff
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.gateway import openapi
from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.gateway_deps import GatewayDeps
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.observability import metrics
from ocf.functions.recording.canonical import RULES
from ocf.functions.settings.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where this is run by path

from scripts import asyncapi, client_python, client_typescript, monitoring_manifests  # noqa: E402
from scripts.generated_sections import between  # noqa: E402

Pages = dict[str, str]


def schemas() -> Pages:
    """One JSON Schema (2020-12) per event type: that of the event's data."""
    pages = {}
    for name, spec in TYPES.items():
        schema = spec.data.model_json_schema(by_alias=True)
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:ocf:{name}"}
        pages[f"schemas/{name}.json"] = _json(head | schema | {"title": name})
    return pages | client_typescript.event_types(pages)


def rest() -> Pages:
    """OpenAPI 3.1: the gateway's routes, and the parts of the clients that follow from them."""
    clock = SystemClock()
    deps = GatewayDeps(
        MemoryBus(clock),
        *(MemoryBucket(clock) for _ in range(3)),
        MemoryStore(),
        History.at("sqlite://"),
        clock,
        GatewaySettings(),
        ForgeCredentials(MemoryBucket(clock), clock),
    )
    document = openapi.describe(create_app(deps)).decode()
    described = json.loads(document)
    clients = client_python.pages(ROOT, described) | client_typescript.api_types(described)
    return {"schemas/openapi.json": document} | clients


def events_page() -> Pages:
    """The catalogue of events, streams and consumers."""
    rows = [
        f"| [`{name}`](../../schemas/{name}.json) | {spec.published_by} | `{spec.subject_template}` |"
        for name, spec in TYPES.items()
    ]
    kept = [
        f"| `{stream.name}` | {stream.description} | {', '.join(f'`{x}`' for x in stream.subjects)} "
        f"| {stream.max_age // streams.DAY} days |"
        for stream in streams.STREAMS
    ]
    fed = [
        f"| `{row.consumer}` | {', '.join(f'`{x}`' for x in row.subjects)} | {row.function} "
        f"| {row.in_flight} | {row.spec().max_in_flight} | {row.max_deliveries or 'no limit'} |"
        for row in ROUTES
    ]
    tries = ", ".join(f"{backoff(n):g}" for n in range(1, 9))
    extensions = [f"| `{name}` | {why} |" for name, why in asyncapi.EXTENSIONS.items()]
    text = f"""# Events

Generated from `events/event_types.py`, `events/streams.py` and `functions/dispatcher/routes.py`. How to publish and
watch: [publish events](../how-to/publish-events.md), [watch output](../how-to/watch-output.md). Terms:
[glossary](../glossary.md).

{diagram()}

## Types
| type | published by | subject |
|---|---|---|
{_lines(rows)}

## Extensions
| name | meaning |
|---|---|
{_lines(extensions)}

## Streams
| stream | contents | subjects | retention |
|---|---|---|---|
{_lines(kept)}

`OCF_OUTPUT` republishes `ocf.out.>` on `ocf.live.>` for current subscribers.
Buckets: {", ".join(f"`{b.name}` ({b.description})" for b in streams.BUCKETS)}.

## Consumers
| consumer | filter | function | in flight | unacknowledged | deliveries |
|---|---|---|---|---|---|
{_lines(fed)}

*In flight* is the limit per dispatcher. *Unacknowledged* is the limit per project and includes messages that wait
for their next delivery. The dispatcher sends an in-progress acknowledgement every 10 s while a function works, so a
run may last for hours.

| response of the function | the dispatcher |
|---|---|
| 2xx | acknowledges the message |
| 429 | waits for `Retry-After` seconds, keeps the message in flight, and posts again; not a failure |
| 425 | requeues the message for 1 to 30 s: another message of its session or project comes first; not a failure |
| 401, 403, 404, 408, 409, 5xx, or no response | redelivers after {tries}, … s; after the last delivery: dead letter |
| any other 4xx | dead-letters the message at once, with the response as its reason |

The dispatcher dead-letters an unreadable message at its first delivery and does not post it: no CloudEvent, wrong
encoding, over a limit, or a type that does not belong on its subject. Such a dead letter has size and SHA-256
instead of the data, and no log quotes it. A dead-lettered submit or session command is also `rejected`. Dead
letters lie on `ocf.dlq.<consumer>.<project>.<execution or session>`; deleting the execution removes them.

Each project has its own durable consumer per route, `<consumer>-<project>`. Projects take turns for the places in
flight; a single active project gets three quarters of them. The route's shared consumer receives every message
without its data and reports which project has messages. It also delivers the messages of projects beyond the
{MAX_CONSUMERS}th that was active within
{IDLE_SECONDS / 60:g} minutes, and messages whose subject names no project ([ADR 0012](../adr/0012-fair-sharing.md)).

Deliveries to Knative Brokers and webhooks (`EVENT_SINKS`) are not in this table:
[receive webhooks](../how-to/receive-webhooks.md).
"""
    return {"docs/reference/events.md": text}


def _state_diagram(cycle: LifeCycle[Any, Any]) -> str:
    arrows = [f"    {start or '[*]'} --> {end}: {taken}" for (start, taken), end in cycle.table.items()]
    ends = [f"    {state} --> [*]" for state in dict.fromkeys(cycle.table.values()) if state in cycle.terminal]
    return _lines(["```mermaid", "stateDiagram-v2", *arrows, *ends, "```"])


def lifecycle_page() -> Pages:
    """The life cycles, drawn from their tables."""
    reasons = _lines([f"- `{reason}`" for reason in Reason])
    text = f"""# Life cycles

Generated from `events/lifecycle.py`. A step outside a table raises an error that names state and step.

## Execution
{_state_diagram(EXECUTION)}

`failed` has a machine-readable `reason`:

{reasons}

## Attempt
The record stores the terminal state of each attempt as `attempts[].ended`.

{_state_diagram(ATTEMPT)}

## Session
The record stores `expiring` as `state: destroying` with `expired: true`, and no record is `destroyed`.

{_state_diagram(SESSION)}
"""
    return {"docs/reference/lifecycle.md": text}


def console_states() -> Pages:
    """The names of the states, for the console and its stream library."""

    def const(left: str, states: Iterable[str], right: str) -> str:
        """Format a list as Biome does: in 120 characters, or one entry a line."""
        one_line = f"export const {left}[{', '.join(json.dumps(name) for name in states)}]{right};"
        lines = "".join(f"  {json.dumps(name)},\n" for name in states)
        return one_line if len(one_line) <= 120 else f"export const {left}[\n{lines}]{right};"

    ends = [state for state in State if state in TERMINAL]
    attempt_ends = [state for state in AttemptState if state in ATTEMPT.terminal]
    stored = typing.get_args(Session.model_fields["state"].annotation)
    text = f"""/** Names of the states. Generated from `events/lifecycle.py` by `make generate`. */

{const("STATES = ", State, " as const")}
export type State = (typeof STATES)[number];

/** States of an execution that no step leaves. */
{const("TERMINAL_STATES: ReadonlySet<string> = new Set(", ends, ")")}

/** Values of `attempts[].ended`. */
{const("ATTEMPT_ENDS = ", attempt_ends, " as const")}
export type AttemptEnd = (typeof ATTEMPT_ENDS)[number];

/** Values of `state` in a session's record. */
{const("SESSION_STATES = ", stored, " as const")}
export type SessionState = (typeof SESSION_STATES)[number];
"""
    return {"console/src/stream/lifecycle-states.ts": text}


def configuration_page() -> Pages:
    """Every environment variable."""
    rows = []
    for field in Settings.model_fields.values():
        shown = "-".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        default = "" if field.default in (None, "", (), {}) else f"`{shown}`"
        rows.append(f"| `{field.alias}` | {default} | {field.description or ''} |")
    text = f"""# Configuration

Generated from `functions/settings/settings.py`. Each process reads its settings once at start. A malformed value
stops the process with one line that names the variable. `ocf doctor` prints the settings in force and masks
secrets.

| variable | default | meaning |
|---|---|---|
{_lines(rows)}
"""
    return {"docs/reference/configuration.md": text}


def metrics_table() -> Pages:
    """The metrics in docs/reference/metrics.md."""
    rows = []
    for family in metrics.REGISTRY.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(f"| `{name}` | {family.type} | {family.documentation} |")
    table = "| metric | kind | counts |\n|---|---|---|\n" + _lines(sorted(rows))
    return {"docs/reference/metrics.md": between(ROOT / "docs/reference/metrics.md", "metrics", table)}


def recording_rules() -> Pages:
    """Return docs/reference/recording.md with the table of what is replaced before requests are compared."""
    page = ROOT / "docs/reference/recording.md"
    rows = [f"| `{pattern.replace('|', chr(92) + '|')}` | `{stands}` | {why} |" for pattern, stands, why in RULES]
    table = "| pattern | becomes | because of |\n|---|---|---|\n" + _lines(rows)
    return {"docs/reference/recording.md": between(page, "recording-rules", table)}


def diagram() -> str:
    """Routes between streams, dispatcher and functions, as a Mermaid flowchart."""
    lines = ["flowchart LR", "    backend([backend]) & gateway -->|commands| C[(OCF_COMMANDS)]"]
    for row in ROUTES:
        source = "C" if row.stream == "OCF_COMMANDS" else "E"
        lines.append(f"    {source} -->|{row.consumer}| D{{{{dispatcher}}}} -->|POST| {row.function}")
    lines += [
        "    submit & execute & cancel & cleanup & archive -->|facts| E[(OCF_EVENTS)]",
        "    execute -->|chunks| O[(OCF_OUTPUT)] -->|ocf.live| viewer([browser, ocf])",
        "    submit & execute & cancel & cleanup & archive <-->|compare-and-set| K[(ocf_executions)]",
        "    execute & archive --> S[(S3)]",
        "    execute & result -->|branch, pull request, comment| forge([forge])",
        "    D -->|dead letters| Q[(OCF_DLQ)]",
    ]
    return "```mermaid\n" + "\n".join(dict.fromkeys(lines)) + "\n```"


GENERATORS: tuple[Callable[[], Pages], ...] = (
    schemas,
    rest,
    asyncapi.pages,
    events_page,
    lifecycle_page,
    console_states,
    configuration_page,
    metrics_table,
    recording_rules,
    lambda: monitoring_manifests.pages(ROOT),
)


def _doc(model: type) -> str:
    return " ".join((model.__doc__ or "").split())


def _lines(lines: list[str]) -> str:
    return "\n".join(lines)


def _json(value: Any) -> str:  # noqa: ANN401 - JSON
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write, or with `--check` compare."""
    pages: Pages = {}
    for generator in GENERATORS:
        pages |= generator()
    known = {str(path.relative_to(ROOT)) for path in (ROOT / "schemas").glob("*")}
    stale = [name for name, text in pages.items() if not (ROOT / name).is_file() or (ROOT / name).read_text() != text]
    extra = sorted(known - pages.keys())
    if "--check" in sys.argv:
        for name in stale + extra:
            sys.stderr.write(f"{name} is not what the code says; run: python scripts/generate.py\n")
        return 1 if stale or extra else 0
    for name in stale:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(pages[name])
    for name in extra:
        (ROOT / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
