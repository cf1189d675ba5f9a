"""One embedded stack with the scripted agent for each module that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.stack import Project, Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
async def project(stack: Stack) -> AsyncIterator[Project]:
    """A project of this test's own."""
    async with stack.project() as own:
        yield own
