"""The options that describe a task, as a table: `ocf run`, `ocf submit`, `ocf session create`.

A new field of a task needs one row here. `--file` is a whole body; every other option overrides a field of it. The
gateway checks the values and names the wrong field; a row checks only what the gateway could not see.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ocf.cli.options.body import Option, build
from ocf.cli.options.ids import EXECUTION, SESSION

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
#: Bytes of a secret in a file; the gateway allows 8,000 characters.
_MAX_SECRET_BYTES = 32 * 1024
#: Bytes of all attachments; the gateway checks the sum.
_MAX_ATTACHMENT_BYTES = 10 * 2**20
#: Bytes of a text in a file; the gateway allows fewer.
_MAX_TEXT_BYTES = 2 * 2**20
_MEDIA_TYPES = ("application/json", "application/pdf", "image/png", "image/jpeg", "image/gif", "image/webp")
STDIN = "-"


def read_input(name: str, limit: int) -> bytes:
    """Return the content of a file, or standard input for `-`.

    Raises:
        ValueError: It cannot be read, or is longer than `limit` bytes.
    """
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}") from None
    if len(data) > limit:
        raise ValueError(f"{name}: more than {limit} bytes")
    return data


def text(data: bytes) -> str:
    """Return text from UTF-8. Raises ValueError if it is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None


def read_object(name: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ValueError."""
    from ocf.events.errors import InvalidEvent
    from ocf.events.untrusted_json import REQUEST, parse_json

    try:
        body = parse_json(read_input(name, REQUEST.bytes), REQUEST, name)
    except InvalidEvent as error:
        raise ValueError(str(error)) from None
    if not isinstance(body, dict):
        raise ValueError(f"{name}: must be a JSON object")
    return body


def _prompt(value: str) -> str:
    from ocf.events.command_payloads import MAX_COMMAND_BYTES

    return text(read_input(STDIN, MAX_COMMAND_BYTES) if value == STDIN else os.fsencode(value))


def _secret(name: str) -> str:
    secret = text(read_input(name, _MAX_SECRET_BYTES)).strip()
    if not secret:
        raise ValueError(f"{name}: is empty")
    return secret


def _model(value: str) -> dict[str, str]:
    provider, slash, name = value.partition("/")
    if not slash or not name:
        raise ValueError("must be provider/model, for example anthropic/claude-sonnet-4-5")
    return {"provider": provider, "model": name}


def _size(value: str) -> int:
    found = re.fullmatch(r"(\d{1,18})\s*([kmgt]i?)?b?", value, re.IGNORECASE)
    if found is None:
        raise ValueError("must be a number of bytes, for example 500000, 512MiB or 2GB")
    return int(found[1]) * (_UNITS | _BINARY_UNITS)[(found[2] or "").lower()]


def _attachments(names: list[str]) -> list[dict[str, str]]:
    return [_attachment(name) for name in names]


def _attachment(name: str) -> dict[str, str]:
    """Return a file as an attachment, with the media type of its name, or `text/plain` for any other text."""
    data = read_input(name, _MAX_ATTACHMENT_BYTES)
    kind = mimetypes.guess_type(name)[0] or ""
    if kind not in _MEDIA_TYPES and not kind.startswith("text/"):
        try:
            kind = "text/plain" if text(data) else ""
        except ValueError:
            raise ValueError(f"{name}: must be text, JSON, a PDF, or a PNG, JPEG, GIF or WebP image") from None
    return {"name": Path(name).name, "media_type": kind, "data": base64.b64encode(data).decode()}


def pairs(values: list[str]) -> dict[str, str]:
    """Return KEY=VALUE texts as an object. Raises ValueError."""
    if wrong := next((value for value in values if not value.partition("=")[0] or "=" not in value), None):
        raise ValueError(f"{wrong!r} must be KEY=VALUE")
    return dict(value.split("=", 1) for value in values)


def _permissions(values: list[str]) -> dict[str, str]:
    # The last `=`: a pattern such as `bash:git log --format=*` may have one.
    if wrong := next((value for value in values if value.rpartition("=")[2] not in ("allow", "deny", "ask")), None):
        raise ValueError(f"{wrong!r} must be NAME=allow, NAME=deny or NAME=ask")
    return {name: rule for name, _, rule in (value.rpartition("=") for value in values)}


def _text_file(name: str) -> str:
    return text(read_input(name, _MAX_TEXT_BYTES))


def _definitions(values: list[str]) -> dict[str, dict[str, str]]:
    """Return Markdown files, `FILE` or `NAME=FILE`, as definitions, named as the file or the skill's folder."""
    found = {}
    for value in values:
        name, equals, given = value.partition("=")
        path = Path(given if equals else value)
        stem = path.resolve().parent.name if path.name == "SKILL.md" else path.stem
        found[name if equals else stem] = {"content": text(read_input(str(path), _MAX_TEXT_BYTES))}
    return found


def _secrets(values: list[str]) -> dict[str, dict[str, Any]]:
    """Return `NAME=URL` texts as secrets whose values are in the environment."""
    urls = pairs(values)
    if missing := next((name for name in urls if not os.environ.get(name)), None):
        raise ValueError(f"{missing}: the environment variable {missing} must hold its value")
    header = {"header": "Authorization", "format": "Bearer {}"}
    return {name: {"value": os.environ[name], "url": url, "inject": header} for name, url in urls.items()}


def _directory(value: Path) -> dict[str, str]:
    return {"source": "directory", "path": str(value.resolve())}


def _git(url: str) -> dict[str, str]:
    return {"source": "git", "url": url}


def _shared(path: str) -> dict[str, str]:
    return {"source": "shared", "path": path}


def _snapshot(execution: str) -> dict[str, str]:
    return {"source": "snapshot", "execution_id": execution}


_AT_LEAST_1 = {"min": 1}
_FILE = {"metavar": "FILE"}

WORKSPACE_OPTIONS = (
    Option(
        *("--dir", "workspace", "Work on a copy of this local directory."), Path, _directory,
        {"exists": True, "file_okay": False},
    ),
    Option("--git", "workspace", "Work on a clone of this repository.", str, _git),
    Option(
        *("--snapshot", "workspace", "Work on the result of this execution."), str, _snapshot, {"metavar": "ID"},
        kind=EXECUTION, id_field="workspace.execution_id",
    ),
    Option("--shared", "workspace", "Work in place in this path of the shared volume.", str, _shared),
    Option("--ref", "workspace.ref", "Branch, tag or commit of --git.", source="git"),
    Option("--depth", "workspace.depth", "Commits of --git to fetch.", int, None, _AT_LEAST_1, source="git"),
    Option("--submodules", "workspace.submodules", "With the submodules of --git.", bool, source="git"),
    Option(
        *("--git-token-file", "workspace.token", "Token for --git in a file; `-` reads standard input."), str, _secret,
        _FILE, source="git",
    ),
    Option("--git-credential", "workspace.credential", "Forge credential of the project for --git.", source="git"),
    Option("--keep-ignored", "workspace.keep_ignored", "Archive what .gitignore excludes too.", bool),
)  # fmt: skip
LABELS = Option("--label", "labels", "KEY=VALUE, may be repeated.", list[str], pairs, {"also": ("-l",)}, merge=True)
TASK_OPTIONS = (
    Option(
        *("--file", "", "The whole task as JSON (POST /tasks/execute); `-` reads standard input. Options override it."),
        str, read_object, {**_FILE, "also": ("-f",)},
    ),
    Option("PROMPT", "prompt", "Task of the agent; `-` reads it from standard input.", str, _prompt),
    Option("--code", "code", "Code that the task is about, in a file.", str, _text_file, _FILE),
    Option("--context", "context", "More for the first prompt, in a file.", str, _text_file, _FILE),
    *WORKSPACE_OPTIONS,
    Option("--session", "session_id", "Continue this session.", extra={"metavar": "ID"}, kind=SESSION),
    Option(
        *("--model", "model_config", "provider/model; else the operator's default."), str, _model, {"also": ("-m",)},
        merge=True,
    ),
    Option("--variant", "model_config.variant", "Reasoning effort or variant of the model."),
    Option("--model-version", "model_config.model_version", "Version of the model, added to its name."),
    Option("--temperature", "model_config.temperature", "Temperature of each model call.", float),
    Option("--max-tokens", "model_config.max_tokens", "Output tokens of a model call.", int, None, _AT_LEAST_1),
    Option("--tool", "model_config.enabled_tools", "Only these tools, may be repeated.", list[str]),
    Option("--system-prompt", "model_config.system_prompt", "System prompt, in a file.", str, _text_file, _FILE),
    Option("--facts", "model_config.facts", "Facts of a model outside the catalog, as JSON.", str, read_object, _FILE),
    Option("--endpoint", "model_config.api_endpoint", "Base URL of the model's API.", extra={"metavar": "URL"}),
    Option("--key-file", "model_config.api_key", "Model key in a file; `-` reads standard input.", str, _secret, _FILE),
    Option("--agent", "agent", "OpenCode agent that runs the task; else `build`."),
    Option("--attach", "attachments", "File for the model, may be repeated.", list[str], _attachments, _FILE),
    Option("--schema", "output_schema", "JSON Schema that the result must fit, in a file.", str, read_object, _FILE),
    Option("--result", "result", "Branch and pull request of the changes, as JSON in a file.", str, read_object, _FILE),
    Option("--mcp", "mcp", "MCP servers by name, as JSON in a file.", str, read_object, _FILE, merge=True),
    *(
        Option(
            *(f"--{kind}-file", f"{kind}s", f"{kind.capitalize()}: [NAME=]FILE, may be repeated."), list[str],
            _definitions, _FILE, merge=True,
        )
        for kind in ("agent", "skill", "command")
    ),
    Option("--setup", "setup.run", "Bash script before the first prompt, in a file.", str, _text_file, _FILE),
    Option("--setup-timeout", "setup.timeout_seconds", "Seconds it may take.", int, None, _AT_LEAST_1),
    Option("--setup-cache", "setup.cache_key", "Keep what it makes, under this key.", extra={"metavar": "KEY"}),
    Option(
        *("--secret", "secrets", "NAME=URL: bearer token in the environment variable NAME, may be repeated."),
        list[str], _secrets, {"metavar": "NAME=URL"}, merge=True,
    ),
    Option("--secrets", "secrets", "Secrets by name, as JSON in a file.", str, read_object, _FILE, merge=True),
    Option("--timeout", "limits.timeout_seconds", "Seconds the run may take.", int, None, _AT_LEAST_1),
    Option("--silence", "limits.silence_seconds", "Seconds without model, tool or output.", int, None, _AT_LEAST_1),
    Option("--answer-time", "limits.answer_seconds", "Seconds a question may wait.", int, None, _AT_LEAST_1),
    Option("--max-total-tokens", "limits.max_total_tokens", "Tokens of all model calls.", int, None, _AT_LEAST_1),
    Option("--max-cost", "limits.max_cost_usd", "US dollars of all model calls.", float),
    Option("--max-memory", "limits.max_memory_bytes", "Memory, for example 2GiB.", str, _size),
    Option("--max-workspace", "limits.max_workspace_bytes", "Size of the workspace, for example 5GB.", str, _size),
    Option("--max-output", "limits.max_output_bytes", "Size of the output, for example 10MB.", str, _size),
    Option("--max-processes", "limits.max_processes", "Processes of the agent.", int, None, _AT_LEAST_1),
    Option("--max-attempts", "retry.max_attempts", "Attempts when workers are lost.", int, None, _AT_LEAST_1),
    Option(
        *("--permission", "permissions", "NAME[:PATTERN]=allow|deny|ask, may be repeated."), list[str], _permissions,
        merge=True,
    ),
    Option(
        *("--allow-host", "network.allow", "Host that the agent's tools may reach, may be repeated."), list[str],
        extra={"metavar": "HOST"},
    ),
    Option("--recording", "recording", "What to record of model calls: off, answers or full."),
    LABELS,
    Option("--task-id", "task_id", "Your own id of the task."),
)  # fmt: skip
_MODEL = tuple(option for option in TASK_OPTIONS if option.field.startswith("model_config"))
_RECORDING = next(option for option in TASK_OPTIONS if option.field == "recording")
RERUN_OPTIONS = (
    Option("--until", "until", "Last call that the recording answers.", int, None, {"min": 0, "metavar": "CALL"}),
    Option("--then", "then", "`live`: go on with the model after that call.", extra={"metavar": "live"}),
    Option(
        *("--on-divergence", "on_divergence", "A request differs: `nearest` reports it, `fail`, or `live`."),
        extra={"metavar": "WHAT"},
    ),
    Option("--prompt", "prompt", "Another prompt; `-` reads it from standard input.", str, _prompt),
    *_MODEL,
    _RECORDING,
    LABELS,
)
SUITE_OPTIONS = (next(option for option in _MODEL if option.field == "model_config"),)
SESSION_OPTIONS = (
    *WORKSPACE_OPTIONS,
    Option("--from", "from_execution_id", "Continue this execution.", extra={"metavar": "ID"}, kind=EXECUTION),
    Option("--ttl", "ttl_seconds", "Seconds until it expires after its last use.", int, None, _AT_LEAST_1),
    LABELS,
)


def task_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of `POST /tasks/execute` for the values of TASK_OPTIONS.

    Raises:
        BadParameter: An option is wrong, two exclude each other, or there is no task.
    """
    if all(given[name] is None for name in ("prompt", "code", "file")):
        raise typer.BadParameter("PROMPT, --code or --file is required")
    _one_workspace(TASK_OPTIONS, given)
    from_stdin = [option.flag for option in TASK_OPTIONS if given[option.name] == STDIN]
    if len(from_stdin) > 1:
        raise typer.BadParameter(f"{' and '.join(from_stdin)} exclude each other: each reads standard input")
    body = build(TASK_OPTIONS, given)
    if "model_config" in body and not {"provider", "model"} & body["model_config"].keys():
        own = [one.flag for one in TASK_OPTIONS if one.field.startswith("model_config.") and given[one.name]]
        raise typer.BadParameter(f"{', '.join(own) or 'model_config'}: needs --model provider/model beside it")
    return body


def session_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of `POST /sessions` for the values of SESSION_OPTIONS. Raises BadParameter."""
    _one_workspace(SESSION_OPTIONS, given)
    return build(SESSION_OPTIONS, given)


#: Fields that name a whole workspace.
_WORKSPACES = ("workspace", "from_execution_id")


def _one_workspace(options: Sequence[Option], given: Mapping[str, Any]) -> None:
    used = [option.flag for option in options if given[option.name] is not None and option.field in _WORKSPACES]
    if len(used) > 1:
        raise typer.BadParameter(f"{' and '.join(used)} exclude each other: each names a workspace")
