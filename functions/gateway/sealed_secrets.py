"""Sealing of a request's plain secrets, before anything else uses it."""

from __future__ import annotations

from ocf.events.optional_task_fields import RemoteMcp
from ocf.functions.gateway.gateway_deps import Sealer
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_schemas import CreateSession, ExecuteTask, GitWorkspaceIn


def seal_task(body: ExecuteTask, project: str, keyring: Sealer | None) -> ExecuteTask:
    """Return `body` with its model key, its repository token, its secrets and the headers of MCP servers sealed.

    Raises:
        Problem: 503, there is a plain secret and no ENCRYPTION_KEY to seal it with.
    """
    if body.model is not None and isinstance(body.model.api_key, str):
        sealed = need(keyring, "model_config.api_key").seal(body.model.api_key, project)
        body = body.model_copy(update={"model": body.model.model_copy(update={"api_key": sealed})})
    more = _workspace(body, project, keyring) | _mcp(body, project, keyring) | _secrets(body, project, keyring)
    return body.model_copy(update=more)


def seal_session(body: CreateSession, project: str, keyring: Sealer | None) -> CreateSession:
    """Return `body` with its repository token sealed for `project`. Raises as `seal_task`."""
    return body.model_copy(update=_workspace(body, project, keyring))


def _workspace(body: ExecuteTask | CreateSession, project: str, keyring: Sealer | None) -> dict[str, object]:
    workspace = body.workspace
    if not isinstance(workspace, GitWorkspaceIn) or not isinstance(workspace.token, str):
        return {}
    sealed = need(keyring, "workspace.token").seal(workspace.token, project)
    return {"workspace": workspace.model_copy(update={"token": sealed})}


def _mcp(body: ExecuteTask, project: str, keyring: Sealer | None) -> dict[str, object]:
    sealed: dict[str, object] = {}
    for name, server in body.mcp.items():
        if isinstance(server, RemoteMcp):
            headers = {
                header: need(keyring, f"mcp.{name}.headers.{header}").seal(value, project)
                if isinstance(value, str)
                else value
                for header, value in server.headers.items()
            }
            server = server.model_copy(update={"headers": headers})
        sealed[name] = server
    return {"mcp": sealed} if sealed else {}


def _secrets(body: ExecuteTask, project: str, keyring: Sealer | None) -> dict[str, object]:
    sealed = {}
    for name, secret in body.secrets.items():
        value = secret.value
        if isinstance(value, str):
            value = need(keyring, f"secrets.{name}.value").seal(value, project)
        sealed[name] = secret.model_copy(update={"value": value})
    return {"secrets": sealed} if sealed else {}


def need(keyring: Sealer | None, field: str) -> Sealer:
    """Return the keyring. Raises Problem (503) without ENCRYPTION_KEY."""
    if keyring is None:
        raise Problem(
            503,
            "no-encryption-key",
            f"{field}: a secret cannot be sealed because the gateway has no ENCRYPTION_KEY; "
            "set one, send the secret sealed, or leave it out",
        )
    return keyring
