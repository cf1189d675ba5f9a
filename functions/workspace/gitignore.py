"""`.gitignore` rules, decided without running git in a directory that an agent wrote.

Semantics of gitignore(5), compared with `git check-ignore` by a property test. Matches bytes, as git does, and never
backtracks over a star's match, so no pattern can make it slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Longest `.gitignore` that is read, in bytes.
MAX_FILE_BYTES = 1024 * 1024
#: Rules that one path is compared with, and rules of one walk. One costs about 0.2 µs per path, and 30 µs to compile.
MAX_RULES, MAX_WALK_RULES = 20_000, 100_000
#: Longer patterns match nothing: no name and no path that git knows needs them.
_MAX_PATTERN_BYTES = 4096
#: Bytes of a file that cost as much to compile as a rule.
_RULE_BYTES = 32
_DOUBLE = None  # a `**` component
_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9", b"graph": rb"\x21-\x7e", b"lower": rb"a-z", b"print": rb"\x20-\x7e",
    b"punct": rb"!-/:-@\[-`{-~", b"space": rb"\s", b"upper": rb"A-Z", b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern. `parts` are matchers of path components; None stands for `**`."""

    negated: bool
    only_directories: bool
    base_name: bool
    parts: tuple[re.Pattern[bytes] | None, ...]

    def matches(self, path: Sequence[bytes], is_directory: bool) -> bool:
        """Return whether the rule matches `path`, given as components below the rule's directory."""
        if self.only_directories and not is_directory:
            return False
        if self.base_name:
            part = self.parts[0]
            return part is not None and part.match(path[-1]) is not None
        return _match_parts(self.parts, path)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one file, in its order. `depth` is the number of components of its directory below the root."""

    depth: int
    rules: tuple[Rule, ...]

    def verdict(self, path: Sequence[bytes], is_directory: bool) -> bool | None:
        """Return True: excluded; False: included again by `!`; None: no rule matches. The last match decides."""
        below = path[self.depth :]
        for rule in reversed(self.rules):
            if rule.matches(below, is_directory):
                return not rule.negated
        return None


@dataclass
class RuleBudget:
    """The rules that one walk may still compile, for an agent writes as many as it likes."""

    left: int = MAX_WALK_RULES

    def parse(self, text: bytes, depth: int, above: Sequence[Rules]) -> Rules | None:
        """Parse a file whose rules join those `above`; None when they would be too many."""
        rules = text.count(b"\n") + 1 + len(text) // _RULE_BYTES
        if rules > self.left or rules + sum(len(each.rules) for each in above) > MAX_RULES:
            return None
        self.left -= rules
        return parse(text, depth)


def excluded(stack: Sequence[Rules], path: Sequence[bytes], is_directory: bool) -> bool:
    """Return whether `path` (components below the root) is ignored; `stack` has the rules from the root down to it."""
    for rules in reversed(stack):
        verdict = rules.verdict(path, is_directory)
        if verdict is not None:
            return verdict
    return False


def parse(text: bytes, depth: int) -> Rules:
    """Parse a `.gitignore`; lines that git would not understand match nothing."""
    return Rules(depth, tuple(_rules(text.removeprefix(b"\xef\xbb\xbf"))))


def _rules(text: bytes) -> Iterator[Rule]:
    for line in text.split(b"\n"):
        pattern = _without_trailing_spaces(line.removesuffix(b"\r"))
        if not pattern or pattern.startswith(b"#") or len(pattern) > _MAX_PATTERN_BYTES:
            continue
        negated = pattern.startswith(b"!")
        pattern = pattern[1:] if negated else pattern
        only_directories = pattern.endswith(b"/")
        pattern = pattern[:-1] if only_directories else pattern
        if not pattern:
            continue
        base_name = b"/" not in pattern
        components = [pattern] if base_name else pattern.removeprefix(b"/").split(b"/")
        parts = tuple(
            _DOUBLE if component == b"**" and not base_name else compile_component(component)
            for component in components
        )
        yield Rule(negated, only_directories, base_name, parts)


def _without_trailing_spaces(line: bytes) -> bytes:
    stripped = line.rstrip(b" ")
    if len(stripped) < len(line) and (len(stripped) - len(stripped.rstrip(b"\\"))) % 2:
        return stripped + b" "  # the first one is escaped
    return stripped


def compile_component(pattern: bytes) -> re.Pattern[bytes]:
    """Compile the pattern of one path component to a regular expression.

    A star takes as little as possible and never gives back (atomic group): the earliest place where the rest fits is
    always as good as a later one, because the text between two stars has a fixed length.
    """
    chunks: list[bytes] = [b""]
    at = 0
    while at < len(pattern):
        if pattern[at : at + 1] == b"*":
            if chunks[-1] or len(chunks) == 1:
                chunks.append(b"")
            at += 1
            continue
        piece, at = _piece(pattern, at)
        if piece is None:
            return re.compile(rb"(?!)")
        chunks[-1] += piece
    if len(chunks) == 1:
        return re.compile(chunks[0] + rb"\Z", re.DOTALL)
    first, *middle, last = chunks
    stars = b"".join(rb"(?>.*?" + chunk + rb")" for chunk in middle)
    return re.compile(first + stars + rb".*" + last + rb"\Z", re.DOTALL)


def _piece(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    """Return the expression of the first byte of `pattern[at:]`, and where the next starts."""
    byte = pattern[at : at + 1]
    if byte == b"?":
        return b".", at + 1
    if byte == b"[":
        return _class(pattern, at)
    if byte == b"\\":
        return (re.escape(pattern[at + 1 : at + 2]), at + 2) if at + 1 < len(pattern) else (None, at)
    return re.escape(byte), at + 1


def _class(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    at += 1
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    body, first = b"", True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if pattern[at : at + 2] == b"[:":
            end = pattern.find(b":]", at)
            name = pattern[at + 2 : end] if end >= 0 else b""
            if name not in _CLASSES:
                return None, at
            body += _CLASSES[name]
            at = end + 2
            continue
        low, at = _class_byte(pattern, at)
        if low is None:
            return None, at
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"]", b""):
            high, at = _class_byte(pattern, at + 1)
            if high is None:
                return None, at
            if low <= high:
                body += b"\\x%02x-\\x%02x" % (low[0], high[0])
        else:
            body += b"\\x%02x" % low[0]
    if not body:
        return (b"." if negated else rb"(?!)."), at + 1
    return b"[" + (b"^" if negated else b"") + body + b"]", at + 1


def _class_byte(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    if pattern[at : at + 1] == b"\\":
        at += 1
    byte = pattern[at : at + 1]
    return (byte, at + 1) if byte else (None, at)


def _match_parts(parts: Sequence[re.Pattern[bytes] | None], path: Sequence[bytes]) -> bool:
    """Match components against components; on a mismatch only the last `**` is retried."""
    at = part = 0
    back: tuple[int, int] | None = None
    while at < len(path):
        if part < len(parts):
            matcher = parts[part]
            if matcher is _DOUBLE:
                if part == len(parts) - 1:
                    return True  # a trailing `**` matches everything inside
                back = (part + 1, at)
                part += 1
                continue
            if matcher.match(path[at]) is not None:
                at, part = at + 1, part + 1
                continue
        if back is None:
            return False
        back = (back[0], back[1] + 1)
        part, at = back
    return part == len(parts)
