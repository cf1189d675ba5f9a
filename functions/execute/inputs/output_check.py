"""Check of a structured output against the task's JSON Schema.

The schema and the value come from a tenant and a model: a pattern or a nest of references can take years. So the check
is a process of its own, with little memory and few seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocf.events.errors import InvalidEvent
from ocf.events.untrusted_json import OUTPUT, parse_json

_WALL_SECONDS = 60.0
_ASKED = "End with a last message that is only a JSON value, without any other word, by this JSON Schema:"
_FENCE = re.compile(r"^```([^\n]*)\n?", re.MULTILINE)
#: Characters at the end of a message in which its last fenced block begins.
_FENCED_WITHIN = 1024 * 1024


def with_schema(system_prompt: str | None, schema: Mapping[str, Any] | None) -> str | None:
    """Return a system prompt that asks for a last message by the schema, which spares a further model call."""
    if schema is None:
        return system_prompt
    asked = f"{_ASKED}\n{json.dumps(schema)}"
    return f"{system_prompt}\n\n{asked}" if system_prompt else asked


def json_in(text: str) -> object:
    """Parse a message, or else its last fenced block, as JSON; return None when neither is JSON."""
    for candidate in (text, _last_fenced(text[-_FENCED_WITHIN:])):
        try:
            return parse_json(candidate.encode("utf-8", "replace"), OUTPUT, "output")
        except InvalidEvent:
            continue
    return None


def _last_fenced(text: str) -> str:
    """Return the last fenced block that is JSON or names no language, else an empty text. The time is linear."""
    found, opened, json_or_none = "", -1, False
    for fence in _FENCE.finditer(text):
        language = fence[1].strip()
        if opened >= 0 and not language:
            found, opened = (text[opened : fence.start()] if json_or_none else found), -1
        else:
            opened, json_or_none = fence.end(), language in ("", "json")
    return found


async def check_output(value: object, schema: Mapping[str, Any]) -> tuple[object, str | None]:
    """Return a structured output and the reason why it does not fit the schema, or None.

    Args:
        value: from JSON; None: the model gave no structured output.
        schema: a JSON Schema that `submit` has checked.
    """
    if value is None:
        return None, "no structured output"
    try:
        # As UTF-8, in which facts are written.
        value = parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), OUTPUT, "output")
    except InvalidEvent as error:
        return None, str(error)
    return value, await _fault(json.dumps({"schema": schema, "value": value}).encode())


async def _fault(question: bytes) -> str | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(__file__).with_name("schema_process.py")),
        env={},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_WALL_SECONDS):
            answer, _ = await process.communicate(question)
    except TimeoutError:
        return f"the check against output_schema took more than {_WALL_SECONDS:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        return (
            "the check against output_schema takes too long or too much memory, or a $ref leads nowhere; simplify its "
            "patterns and references"
        )
    return answer.decode("utf-8", "replace") or None
