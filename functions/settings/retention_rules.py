"""Retention rules of outputs and archives: `RETENTION`, a table by project and label.

`default=7d/90d,project-a=2d/30d,project-a/team=x:1d/30d`: output stays 7 days in the stream, the archive 90 days.
`default` stands for every project without its own rule, so a project with this name cannot have one. The most specific
matching rule applies; among equals, the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

_ANY = "default"
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RULE = re.compile(
    r"(?P<project>[a-z0-9-]{1,63})(?:/(?P<label>[^=,:]+)=(?P<value>[^:,]*):|=)(?P<output>\d+[smhd])/(?P<archive>\d+[smhd])"
)


@dataclass(frozen=True)
class RetentionRule:
    """One rule. With `label` None it applies to every execution of the project."""

    project: str
    label: str | None
    value: str
    output: timedelta
    archive: timedelta

    def matches(self, project: str, labels: Mapping[str, str]) -> bool:
        """Return whether the rule applies to an execution with these labels."""
        if self.project not in (_ANY, project):
            return False
        return self.label is None or labels.get(self.label) == self.value

    def __str__(self) -> str:
        label = f"/{self.label}={self.value}:" if self.label is not None else "="
        return f"{self.project}{label}{_format_span(self.output)}/{_format_span(self.archive)}"


def rules(text: str) -> tuple[RetentionRule, ...]:
    """Parse the table. Raises ValueError, which names the invalid rule."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _RULE.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part!r} is not PROJECT[/LABEL=VALUE:]=7d/90d, for example default=7d/90d or a/team=x:1d/30d"
            )
        output, archive = _span(match["output"]), _span(match["archive"])
        if archive < output:
            raise ValueError(f"{part!r}: the archive must not expire before the output")
        found.append(RetentionRule(match["project"], match["label"], match["value"] or "", output, archive))
    return tuple(found)


def rule_for(table: Sequence[RetentionRule], project: str, labels: Mapping[str, str]) -> RetentionRule | None:
    """Return the rule that applies, or None.

    A rule with a label precedes one without, a project's own rule precedes the default, a later rule an earlier one.
    """
    matching = [
        (rule.label is not None, rule.project != _ANY, number)
        for number, rule in enumerate(table)
        if rule.matches(project, labels)
    ]
    return table[max(matching)[2]] if matching else None


def _span(text: str) -> timedelta:
    return timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])


def _format_span(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    unit = next(u for u in ("d", "h", "m", "s") if seconds % _UNITS[u] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
