"""Workspaces: their sources, the changes that an execution made, their archives. See docs/reference/workspaces.md."""

from __future__ import annotations

from ocf.functions.workspace.archive import Packed
from ocf.functions.workspace.archive_reading import Unpacked, read_member, tree_digest
from ocf.functions.workspace.baseline import Limits
from ocf.functions.workspace.changes import (
    Patch,
    Size,
    changed_files,
    conclude,
    measure,
    pack,
    pack_input,
    pack_layer,
    readable,
    summarise,
    unpack,
    write_patch,
)
from ocf.functions.workspace.errors import InvalidWorkspace, WorkspaceTooLarge
from ocf.functions.workspace.git import GitFailed
from ocf.functions.workspace.prepare import (
    Own,
    Prepared,
    Sources,
    check,
    forget,
    prepare,
    record_again,
    restore,
)
from ocf.functions.workspace.safe_tree import discard_tree

__all__ = [
    "GitFailed",
    "InvalidWorkspace",
    "Limits",
    "Own",
    "Packed",
    "Patch",
    "Prepared",
    "Size",
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
    "pack_input",
    "pack_layer",
    "prepare",
    "read_member",
    "readable",
    "record_again",
    "restore",
    "summarise",
    "tree_digest",
    "unpack",
    "write_patch",
]
