"""Templates of a rule's texts: a subset of Jinja over one event, with a bounded result.

An allow-list of syntax nodes is checked when the rule is stored: there are no loops, calls, macros or arithmetic.
Values of the event are foreign text: in a prompt each is marked with a random word that its author cannot know.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2 import ChainableUndefined, Environment, TemplateError, nodes, pass_context
from jinja2.runtime import Context

from ocf.events import prompt_injection_marks
from ocf.functions.rules.condition import EVENT_SECONDS, TOO_LONG

MAX_TEMPLATE = 100_000
MAX_RESULT = 400_000
#: Filters of one expression.
MAX_FILTERS = 4
#: Of one text: words and signs within braces; expressions and ifs; levels of nesting; filters.
_TOKENS, _EXPRESSIONS, _DEPTH, _FILTER_COUNT = 4_000, 200, 32, 50
_FILTERS = ("default", "first", "last", "length", "lower", "tojson", "trim", "truncate", "upper")
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem),
    *(nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Filter),
    nodes.Keyword,
)


class InvalidTemplate(ValueError):
    """The text is not a template of the allowed subset."""


class TemplateFailed(ValueError):
    """The template has no result for this event."""


class _Missing(ChainableUndefined):
    """A field that the event does not have: false in a condition, an error as text."""

    def __str__(self) -> str:
        raise TemplateFailed(f"the event has no {self._undefined_name}")


#: Processor time of this thread at which a render ends.
_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


def _check_time() -> None:
    if time.thread_time() > _deadline.get():
        raise TemplateFailed(TOO_LONG)


class _Fields(Environment):
    """Looks names up in JSON values only, so that no attribute of a Python object is reachable."""

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the member `attribute` of an object."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return a member of an object or an item of a list."""
        _check_time()
        if isinstance(obj, dict | list):
            try:
                return obj[argument]
            except (KeyError, IndexError, TypeError):
                pass
        return self.undefined(name=str(argument)[:80])


@pass_context
def _final(context: Context, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return the text of a value, between marks if the render has one. No constant has a mark: see `render`."""
    if isinstance(value, dict | list | bool | float | None):
        value = json.dumps(value, ensure_ascii=False)
    mark = context.get("mark")
    return f"<{mark}>{value}</{mark}>" if mark else value


def _in_time(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # also Jinja's mark, which says what it passes
    def call(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - of every filter
        _check_time()
        return function(*given, **named)

    return call


_ENVIRONMENT = _Fields(undefined=_Missing, finalize=_final, autoescape=False, keep_trailing_newline=True)
_ENVIRONMENT.globals.clear()
_ENVIRONMENT.filters = {name: _in_time(_ENVIRONMENT.filters[name]) for name in _FILTERS}
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"ensure_ascii": False}


def is_template(text: str) -> bool:
    """Return whether the text has an expression or a condition of Jinja."""
    return "{{" in text or "{%" in text


class Text:
    """A compiled template.

    Args:
        text: The template.
        marked: Put each value of the event between marks, and explain the marks in front of the text.

    Raises:
        InvalidTemplate: It is not in the allowed subset; the text says why.
    """

    def __init__(self, text: str, *, marked: bool) -> None:
        if len(text) > MAX_TEMPLATE:
            raise InvalidTemplate(f"{len(text)} characters; at most {MAX_TEMPLATE}")
        try:
            _check_tokens(text)
            tree = _ENVIRONMENT.parse(text)
            #: Number of its expressions and ifs, by which its compilation takes time.
            self.expressions = _check(tree)
            self._template = _ENVIRONMENT.from_string(text)
        except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            raise InvalidTemplate(f"is not a template: {str(error)[:300]}") from None
        parts = (part for output in tree.find_all(nodes.Output) for part in output.nodes)
        #: The text with `x` in place of each expression, for the checks of its field.
        self.example = "".join(part.data if isinstance(part, nodes.TemplateData) else "x" for part in parts)
        self._marked = marked

    def render(self, event: Mapping[str, Any], seconds: float = EVENT_SECONDS) -> str:
        """Return the text for one event, in at most `seconds` of processor time and those of one filter.

        Raises:
            TemplateFailed: The event lacks a field, the result is too long, or it takes too long.
        """
        mark = prompt_injection_marks.new_mark() if self._marked else ""
        pieces, size = [prompt_injection_marks.notice(mark)] if mark else [], 0
        token = _deadline.set(time.thread_time() + seconds)
        try:
            for piece in self._template.generate(event=event, mark=mark):
                size += len(piece)
                if size > MAX_RESULT:
                    raise TemplateFailed(f"the result is longer than {MAX_RESULT} characters")
                pieces.append(piece)
        except TemplateFailed:
            raise
        except Exception as error:  # a filter raises builtins for a value of another type
            raise TemplateFailed(str(error)[:300] or type(error).__name__) from None
        finally:
            _deadline.reset(token)
        return "".join(pieces)


def _check_tokens(text: str) -> None:
    """Raise InvalidTemplate for a text whose parse would take long."""
    found = (kind for _, kind, _ in _ENVIRONMENT.lexer.tokeniter(text, None) if kind not in ("data", "whitespace"))
    if next(itertools.islice(found, _TOKENS, None), None) is not None:
        raise InvalidTemplate(f"has more than {_TOKENS} words and signs within braces; shorten its expressions")


def _check(tree: nodes.Template) -> int:
    """Return the number of expressions and ifs. Raises InvalidTemplate."""
    _check_depth(tree)
    found = [tree, *tree.find_all(nodes.Node)]
    outputs = (one for output in found if isinstance(output, nodes.Output) for one in output.nodes)
    expressions = sum(not isinstance(one, nodes.TemplateData) for one in outputs)
    expressions += sum(isinstance(one, nodes.If | nodes.CondExpr) for one in found)
    if expressions > _EXPRESSIONS:
        raise InvalidTemplate(f"has {expressions} expressions and ifs; at most {_EXPRESSIONS}")
    if (filters := sum(isinstance(one, nodes.Filter) for one in found)) > _FILTER_COUNT:
        raise InvalidTemplate(f"has {filters} filters; at most {_FILTER_COUNT}")
    for node in found:
        if not isinstance(node, _NODES):
            raise InvalidTemplate(f"has {type(node).__name__.lower()} in line {node.lineno}; allowed are fields and if")
        if isinstance(node, nodes.Name) and node.name != "event":
            raise InvalidTemplate(f"uses {node.name}; the only variable is event")
        if isinstance(node, nodes.Filter):
            if node.name not in _FILTERS:
                raise InvalidTemplate(f"uses the filter {node.name}; allowed are {', '.join(_FILTERS)}")
            if sum(1 for _ in node.find_all(nodes.Filter)) >= MAX_FILTERS:
                raise InvalidTemplate(f"has more than {MAX_FILTERS} filters in one expression")
    return expressions


def _check_depth(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for _ in range(_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise InvalidTemplate(f"is nested deeper than {_DEPTH} levels in line {level[0].lineno}")
