"""Conditions of rules: CEL (Common Expression Language) over one event, in bounded time.

Source: https://github.com/google/cel-spec. A shared function evaluates what tenants write. Comprehensions, regular
expressions and `+` are therefore refused: an expression then reads each value a bounded number of times.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cel

MAX_EXPRESSION = 2_000
#: Seconds of processor time that all rules of a project may take for one event.
EVENT_SECONDS = 0.5
TOO_LONG = f"took too long: the rules of the project have {EVENT_SECONDS} s of processor time for one event"
#: Seconds of processor time after which others run.
_PAUSE = 0.01
#: Of more paths an event is not pruned.
_MAX_PATHS = 500
#: Operators and functions as the parser names them. A comprehension uses `@not_strictly_false` or `_+_`.
_ALLOWED = frozenset(
    {
        *("!_", "_&&_", "_||_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "_[_]", "-_", "_-_"),
        *("size", "contains", "startsWith", "endsWith", "int", "double", "string", "timestamp", "duration"),
    }
)
_READABLE = {"_+_": "+ and map() or filter()", "@not_strictly_false": "all(), exists()"}
_TEXT = re.compile(r"""[rR]?(?:\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*')""")
_PATH = re.compile(r"\bevent((?:\s*\.\s*[A-Za-z_]\w*)*)(\s*\()?")


#: Paths of fields, each a tuple of names; the empty path is the whole event.
Paths = frozenset[tuple[str, ...]]
_WHOLE: Paths = frozenset({()})


class InvalidCondition(ValueError):
    """The expression is not valid CEL, or uses a part of it that is not allowed."""


class ConditionFailed(ValueError):
    """The expression cannot be evaluated for this event."""


class EventView(dict[str, Any]):
    """An event as rules see it: attributes, extensions, and the payload as `data`.

    `seconds` is the processor time that rules may still take for it.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.seconds = self._paused = EVENT_SECONDS
        self._paths: Paths = frozenset()
        self._context: cel.Context | None = None
        #: Whether an execution of this system caused it.
        self.own = str(fields["type"]).startswith("dev.ocf.")

    def context(self, paths: Paths) -> cel.Context:
        """Return what conditions read, in the library's form; its making takes far longer than a condition.

        There are at most two for an event: the second has all of it, however many conditions read other fields.
        """
        if self._context is None or not (paths <= self._paths or self._paths == _WHOLE):
            self._paths = paths if self._context is None else _WHOLE
            self._context = cel.Context({"event": _pruned(self, tuple(self._paths))})
        return self._context

    async def pause(self) -> None:
        """Let others run, if rules took a while since the last pause."""
        if self._paused - self.seconds > _PAUSE:
            self._paused = self.seconds
            await asyncio.sleep(0)


def share(conditions: Sequence[Condition]) -> None:
    """Let conditions share one conversion of an event, of all the fields that they read."""
    together: Paths = frozenset().union(*(one.paths for one in conditions))
    for one in conditions:
        one.together = together if len(together) <= _MAX_PATHS else _WHOLE


class Condition:
    """A compiled condition. It reads the fields `paths`; `together` has those of the project's conditions.

    Raises:
        InvalidCondition: The expression cannot be used; the text says why.
    """

    def __init__(self, expression: str) -> None:
        if len(expression) > MAX_EXPRESSION:
            raise InvalidCondition(f"{len(expression)} characters; at most {MAX_EXPRESSION}")
        try:
            self._program = cel.compile(expression)
        except ValueError as error:
            raise InvalidCondition(f"is not a CEL expression: {str(error)[:300]}") from None
        used = self._program.references()
        if wrong := sorted(set(used["functions"]) - _ALLOWED):
            names = ", ".join(_READABLE.get(name, name) for name in wrong)
            raise InvalidCondition(
                f"uses {names}; allowed are comparisons, in, has, size, contains, startsWith, endsWith"
            )
        if other := sorted(set(used["variables"]) - {"event"}):
            raise InvalidCondition(f"uses {other[0]}; the only variable is event")
        self.paths = self.together = _paths(_TEXT.sub('""', expression))

    def holds(self, event: EventView) -> bool:
        """Return whether the condition is true. A field that the event does not have makes it false.

        Raises:
            ConditionFailed: The expression compares values of different types, its result is not true or false, or
                the rules before it took the time that the event has.
        """
        if event.seconds <= 0:
            raise ConditionFailed(TOO_LONG)
        began = time.thread_time()
        try:
            result = self._program.execute(event.context(self.together))
        except (KeyError, IndexError):
            return False
        except Exception as error:  # the library raises builtins for every failure of an expression
            raise ConditionFailed(str(error).partition(" CEL does not")[0][:300]) from None
        finally:
            event.seconds -= time.thread_time() - began
        if not isinstance(result, bool):
            raise ConditionFailed(f"is {type(result).__name__}, not true or false")
        return result


def _paths(expression: str) -> Paths:
    """Return the members of `event` that the expression reads; the conversion of a whole event takes a millisecond."""
    found = set()
    for members, call in _PATH.findall(expression):
        names = tuple(name.strip() for name in members.split(".") if name.strip())
        found.add(names[:-1] if call else names)
    return frozenset(found)


def _pruned(event: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> Any:  # noqa: ANN401 - any JSON value
    here = {path[0] for path in paths if path}
    if len(here) < len({path[:1] for path in paths}) or not isinstance(event, Mapping):
        return event
    return {
        name: _pruned(event[name], tuple(path[1:] for path in paths if path[0] == name))
        for name in here
        if name in event
    }
