"""Fixtures of the browser tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.console import running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module: a test's pages are in contexts of their own.

    Not for the session: Playwright keeps an event loop running, and no asynchronous test could come after it.
    """
    with running_browser() as browser:
        yield browser
