"""Workspaces: where they come from, what an execution changed in them, how they are kept. See docs/workspaces.md."""

from __future__ import annotations

from functions.workspace.archive import Packed, Unpacked
from functions.workspace.base import Limits
from functions.workspace.errors import InvalidWorkspace, WorkspaceTooLarge
from functions.workspace.git import GitFailed
from functions.workspace.prepare import Own, Prepared, Source, Sources, check, forget, prepare, restore
from functions.workspace.results import (
    Patch,
    Size,
    changed_files,
    conclude,
    measure,
    pack,
    readable,
    summarise,
    unpack,
    write_patch,
)
from functions.workspace.tree import discard_tree

__all__ = [
    "GitFailed",
    "InvalidWorkspace",
    "Limits",
    "Own",
    "Packed",
    "Patch",
    "Prepared",
    "Size",
    "Source",
    "Sources",
    "Unpacked",
    "WorkspaceTooLarge",
    "changed_files",
    "check",
    "conclude",
    "discard_tree",
    "forget",
    "measure",
    "pack",
    "prepare",
    "readable",
    "restore",
    "summarise",
    "unpack",
    "write_patch",
]
