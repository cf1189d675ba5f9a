"""Names and links of archives: what may be unpacked and what may not."""

from __future__ import annotations

import os.path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.functions.workspace.errors import InvalidWorkspace
from ocf.functions.workspace.safe_tree import escapes, safe_parts

_components = st.sampled_from(["a", "b", "..", ".", "", "ü", "a b", "...", "..a", "a\0b", "\n"])
_paths = st.lists(_components, min_size=1, max_size=6).map("/".join)


@given(_paths)
def test_safe_paths_stay_inside(path: str) -> None:
    """A path that is accepted is its own normal form and lies below the root; every other one is refused."""
    try:
        parts = safe_parts(path)
    except InvalidWorkspace:
        normal = os.path.normpath(path)
        assert normal != path or path.startswith(("/", "..")) or path == "." or "\0" in path
        return
    assert "/".join(parts) == path == os.path.normpath(path)
    assert os.path.normpath(os.path.join("/root", path)).startswith("/root/")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "", ".", "..", "a/", "x\0y"])
def test_unsafe_paths(path: str) -> None:
    """Absolute, climbing, empty and doubled components are refused, not repaired."""
    with pytest.raises(InvalidWorkspace):
        safe_parts(path)


@pytest.mark.parametrize("path", ["/".join("a" * 300), "b" * 4000])
def test_overlong_paths(path: str) -> None:
    """Depth and length are bounded, so that no entry can exhaust descriptors or the kernel's limit."""
    with pytest.raises(InvalidWorkspace, match="deeper"):
        safe_parts(path)


@given(_paths.filter(lambda path: "\0" not in path), st.lists(st.just("d"), max_size=3))
def test_links_leave_when_the_kernel_would(target: str, directories: list[str]) -> None:
    """A target that climbs out anywhere on its way leaves; one that never does stays."""
    path = "/".join([*directories, "link"])
    depth = len(directories)
    out = target.startswith("/")
    for part in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        out = out or depth < 0
    assert escapes(path, target) is out
