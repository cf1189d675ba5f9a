"""gitignore(5), rule by rule. That git agrees is shown by tests/integration/test_workspace_ignore_git.py."""

from __future__ import annotations

import time

import pytest

from ocf.functions.workspace.gitignore import compile_component, excluded, parse


def _ignored(text: str, path: str, *, directory: bool = False) -> bool:
    return excluded([parse(text.encode(), 0)], path.encode().split(b"/"), directory)


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("*.pyc", "a/b.pyc", True),
        ("*.pyc", "a/b.py", False),
        ("/top", "top", True),
        ("/top", "a/top", False),
        ("a/b", "a/b", True),
        ("a/b", "x/a/b", False),
        ("**/b", "x/a/b", True),
        ("a/**", "a/x/y", True),
        ("a/**", "a", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("build/", "build", False),
        ("*.log\n!keep.log", "keep.log", False),
        ("!keep.log\n*.log", "keep.log", True),
        ("\\!bang", "!bang", True),
        ("\\#hash", "#hash", True),
        ("# comment", "# comment", False),
        ("trailing   ", "trailing", True),
        ("space\\ ", "space ", True),
        ("crlf\r\n", "crlf", True),
        ("[abc].txt", "b.txt", True),
        ("[!abc].txt", "b.txt", False),
        ("[a-c]x", "bx", True),
        ("[[:digit:]]", "7", True),
        ("a[", "a[", False),
        ("a?c", "abc", True),
        ("*", "anything", True),
        ("ab*b", "ab", False),
        ("", "x", False),
        ("/", "x", False),
    ],
)
def test_patterns(text: str, path: str, ignored: bool) -> None:
    """Each rule of the manual page does what it says."""
    assert _ignored(text, path) is ignored


def test_only_directories() -> None:
    """A trailing slash matches directories and nothing else."""
    assert _ignored("build/", "a/build", directory=True)


def test_deeper_files_win() -> None:
    """The `.gitignore` nearest to the path decides."""
    stack = [parse(b"*.log", 0), parse(b"!*.log", 1)]
    assert not excluded(stack, [b"a", b"x.log"], False)
    assert excluded(stack[:1], [b"a", b"x.log"], False)


def test_no_pattern_is_slow() -> None:
    """Stars beyond reason, which make backtracking matchers run for years, take no time."""
    pattern = compile_component(b"*a" * 40 + b"b")
    start = time.process_time()
    assert pattern.match(b"a" * 255) is None
    assert not _ignored("**/a/" * 50 + "b", "/".join("a" * 180))
    assert time.process_time() - start < 1
