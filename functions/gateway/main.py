"""The gateway of a process: its dependencies from the process's parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.dependencies import GatewayDeps, MintViewer
from ocf.functions.gateway.settings import GatewaySettings, check_bind
from ocf.functions.runtime import nats_auth
from ocf.functions.runtime.bootstrap import Dependencies


@asynccontextmanager
async def serving(parts: Dependencies) -> AsyncIterator[FastAPI]:
    """The gateway's application, following the history while the context lasts.

    Raises:
        UnsafeBind: it would be open to a network without authentication.
    """
    settings = GatewaySettings.of(parts.settings)
    check_bind(parts.settings.host, settings)
    app = create_app(
        GatewayDeps(
            bus=parts.bus,
            executions=parts.executions,
            sessions=parts.sessions,
            store=parts.store,
            clock=parts.clock,
            settings=settings,
            mint_viewer=_mint_viewer(parts),
            keyring=parts.keyring,
        )
    )
    # Mounted below another application its own lifespan is not run by the server.
    async with app.router.lifespan_context(app):
        yield app


def _mint_viewer(parts: Dependencies) -> MintViewer | None:
    seed, account = parts.settings.nats_signing_seed, parts.settings.nats_account
    if seed is None or account is None:
        return None

    def mint(project: str, execution: str, ttl: int) -> nats_auth.Credentials:
        now = int(parts.clock.now().timestamp())
        return nats_auth.mint_viewer(seed.get_secret_value(), account, project, execution, ttl=ttl, now=now)

    return mint
