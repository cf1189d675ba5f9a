"""Fixtures of the tests of a whole system: in a browser, and in a cluster."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.cluster import Cluster, cluster
from tests.support.console import running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module: a test's pages are in contexts of their own.

    Not for the session: Playwright keeps an event loop running, and no asynchronous test could come after it.
    """
    with running_browser() as browser:
        yield browser


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster as it is installed, with a project of the test's own."""
    async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
        yield connected
