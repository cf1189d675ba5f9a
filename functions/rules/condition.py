"""Conditions of rules: CEL (Common Expression Language) over one event, in bounded time.

Source: https://github.com/google/cel-spec. A shared function evaluates what tenants write. Comprehensions, regular
expressions and `+` are therefore refused: an expression then reads each value a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import cel

MAX_EXPRESSION = 2_000
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


class InvalidCondition(ValueError):
    """The expression is not valid CEL, or uses a part of it that is not allowed."""


class ConditionFailed(ValueError):
    """The expression cannot be evaluated for this event."""


class EventView(dict[str, Any]):
    """An event as rules see it: attributes, extensions, and the payload as `data`.

    `contexts` has the part of it that conditions read, in the library's form, by the paths of its fields: conditions
    that read the same fields share one, because its making takes far longer than a condition.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.contexts: dict[str, cel.Context] = {}
        #: Whether an execution of this system caused it.
        self.own = str(fields["type"]).startswith("dev.ocf.")


class Condition:
    """A compiled condition.

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
        self._paths = _paths(_TEXT.sub('""', expression))
        self._key = repr(self._paths)  # a tuple's hash would be computed for each event

    def holds(self, event: EventView) -> bool:
        """Return whether the condition is true. A field that the event does not have makes it false.

        Raises:
            ConditionFailed: The expression compares values of different types, or its result is not true or false.
        """
        try:
            context = event.contexts.get(self._key)
            if context is None:
                context = event.contexts[self._key] = cel.Context({"event": _pruned(event, self._paths)})
            result = self._program.execute(context)
        except (KeyError, IndexError):
            return False
        except Exception as error:  # the library raises builtins for every failure of an expression
            raise ConditionFailed(str(error).partition(" CEL does not")[0][:300]) from None
        if not isinstance(result, bool):
            raise ConditionFailed(f"is {type(result).__name__}, not true or false")
        return result


def _paths(expression: str) -> tuple[tuple[str, ...], ...]:
    """Return the members of `event` that the expression reads; the conversion of a whole event takes a millisecond."""
    found = set()
    for members, call in _PATH.findall(expression):
        names = tuple(name.strip() for name in members.split(".") if name.strip())
        found.add(names[:-1] if call else names)
    return tuple(sorted(found))


def _pruned(event: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> Any:  # noqa: ANN401 - any JSON value
    here = {path[0] for path in paths if path}
    if len(here) < len({path[:1] for path in paths}) or not isinstance(event, Mapping):
        return event
    return {
        name: _pruned(event[name], tuple(path[1:] for path in paths if path[0] == name))
        for name in here
        if name in event
    }
