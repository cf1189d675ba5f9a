"""The gateway of a process, built from the process's dependencies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.gateway_deps import GatewayDeps, MintViewer
from ocf.functions.gateway.settings import GatewaySettings, check_bind
from ocf.functions.runtime import nats_auth
from ocf.functions.runtime.bootstrap import Dependencies


@asynccontextmanager
async def serving(deps: Dependencies) -> AsyncIterator[FastAPI]:
    """Yield the gateway's application.

    Raises:
        UnsafeBind: it would be open to a network without authentication.
    """
    settings = GatewaySettings.of(deps.settings)
    check_bind(deps.settings.host, settings)
    app = create_app(
        GatewayDeps(
            bus=deps.bus,
            executions=deps.executions,
            sessions=deps.sessions,
            triggers=deps.triggers,
            store=deps.store,
            history=deps.history,
            clock=deps.clock,
            settings=settings,
            credentials=deps.credentials,
            mint_viewer=_mint_viewer(deps),
            keyring=deps.keyring,
        )
    )
    # The server does not run the lifespan of an application mounted below another one.
    async with app.router.lifespan_context(app):
        yield app


def _mint_viewer(deps: Dependencies) -> MintViewer | None:
    seed, account = deps.settings.nats_signing_seed, deps.settings.nats_account
    if seed is None or account is None:
        return None

    def mint(project: str, execution: str, ttl: int) -> nats_auth.Credentials:
        now = int(deps.clock.now().timestamp())
        return nats_auth.mint_viewer(seed.get_secret_value(), account, project, execution, ttl=ttl, now=now)

    return mint
