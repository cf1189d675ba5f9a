"""Templates of a rule's texts: a subset of Jinja over one event, with a bounded result.

An allow-list of syntax nodes is checked when the rule is stored: there are no loops, calls, macros or arithmetic.
Values of the event are foreign text: in a prompt each is marked with a random word that its author cannot know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import ChainableUndefined, Environment, TemplateError, nodes, pass_context
from jinja2.runtime import Context

from ocf.events import foreign_text

MAX_TEMPLATE = 100_000
MAX_RESULT = 400_000
MAX_FILTERS = 4
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


class _Fields(Environment):
    """Looks names up in JSON values only, so that no attribute of a Python object is reachable."""

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the member `attribute` of an object."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return a member of an object or an item of a list."""
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


_ENVIRONMENT = _Fields(undefined=_Missing, finalize=_final, autoescape=False, keep_trailing_newline=True)
_ENVIRONMENT.globals.clear()
_ENVIRONMENT.filters = {name: _ENVIRONMENT.filters[name] for name in _FILTERS}
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
            tree = _ENVIRONMENT.parse(text)
            _check(tree)
            self._template = _ENVIRONMENT.from_string(text)
        except (TemplateError, RecursionError) as error:
            raise InvalidTemplate(f"is not a template: {str(error)[:300]}") from None
        parts = (part for output in tree.find_all(nodes.Output) for part in output.nodes)
        #: The text with `x` in place of each expression, for the checks of its field.
        self.example = "".join(part.data if isinstance(part, nodes.TemplateData) else "x" for part in parts)
        self._marked = marked

    def render(self, event: Mapping[str, Any]) -> str:
        """Return the text for one event.

        Raises:
            TemplateFailed: The event lacks a field, or the result is too long.
        """
        mark = foreign_text.new_mark() if self._marked else ""
        pieces, size = [foreign_text.notice(mark)] if mark else [], 0
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
        return "".join(pieces)


def _check(tree: nodes.Template) -> None:
    for node in (tree, *tree.find_all(nodes.Node)):
        if not isinstance(node, _NODES):
            raise InvalidTemplate(f"has {type(node).__name__.lower()} in line {node.lineno}; allowed are fields and if")
        if isinstance(node, nodes.Name) and node.name != "event":
            raise InvalidTemplate(f"uses {node.name}; the only variable is event")
        if isinstance(node, nodes.Filter):
            if node.name not in _FILTERS:
                raise InvalidTemplate(f"uses the filter {node.name}; allowed are {', '.join(_FILTERS)}")
            if sum(1 for _ in node.find_all(nodes.Filter)) >= MAX_FILTERS:
                raise InvalidTemplate(f"has more than {MAX_FILTERS} filters in one expression")
