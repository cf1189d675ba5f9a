"""Fixtures of the browser tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.console import running_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the session: a test's pages are in contexts of their own."""
    with running_browser() as browser:
        yield browser
