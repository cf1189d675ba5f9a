"""Being nobody special: what root may do hides what a worker in a cluster may not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ocf.functions.core.syscalls import drop_capabilities

T = TypeVar("T")


def without_privileges(call: Callable[[], T]) -> T:
    """`call()` in a thread that has given up all capabilities: its modes hold for uid 0 too, and for its children."""
    with ThreadPoolExecutor(1, initializer=drop_capabilities) as thread:
        return thread.submit(call).result()
