"""Our gitignore against git's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocf.functions.workspace.gitignore import excluded, parse

_patterns = st.lists(
    st.one_of(
        st.text("ab.*?/![]\\ -^#", min_size=1, max_size=9),
        st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "*b", "?", "[ab]", "[!a]"]), min_size=1, max_size=4).map(
            "/".join
        ),
    ),
    min_size=1,
    max_size=4,
)
_names = st.text("ab.-! ", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
_paths = st.lists(st.lists(_names, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8, unique=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    return root


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_patterns, _paths)
def test_agrees_with_git(repository: Path, patterns: list[str], paths: list[str]) -> None:
    """For any patterns and paths, what we ignore is what `git check-ignore` ignores."""
    # A slash in brackets matches nothing in git; nobody writes it, and we split there.
    patterns = [pattern for pattern in patterns if "[" not in pattern or "/" not in pattern]
    text = "\n".join(patterns).encode()
    (repository / ".gitignore").write_bytes(text)
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    command = ["git", "check-ignore", "--no-index", "-z", "--stdin"]
    said = subprocess.run(command, cwd=repository, input=asked, capture_output=True, check=False).stdout
    ignored = {path for path in said.split(b"\0") if path}
    rules = [parse(text, 0)]
    for path in paths:
        parts = os.fsencode(path).split(b"/")
        # As the walk does: an ignored directory settles everything below it.
        ours = any(excluded(rules, parts[:depth], depth < len(parts)) for depth in range(1, len(parts) + 1))
        assert ours is (os.fsencode(path) in ignored), (patterns, path)
