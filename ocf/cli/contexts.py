"""`ocf context ...`: named gateways with the source of a token; login at an issuer."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocf.cli.common import JsonFlag, console, fail, plain, print_json, printable
from ocf.cli.context_file import (
    Context,
    Contexts,
    checked_name,
    checked_url,
    listed,
    load,
    login_folder,
    store,
)
from ocf.events.client.gateway_retry import CallFailed

if TYPE_CHECKING:
    from ocf.cli.oidc import Prompt

app = typer.Typer(no_args_is_help=True, help="Named gateways elsewhere, each with the source of its token.")

#: Who logs in, and a refresh token that outlives the browser's session.
_SCOPE = "openid offline_access"
Name = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]


@app.command()
def add(
    name: Name,
    gateway: Annotated[str, typer.Option("--gateway", metavar="URL", help="URL of its gateway.")],
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="File with the bearer token, read at each call.")
    ] = None,
    token_command: Annotated[
        str | None, typer.Option("--token-command", metavar="COMMAND", help="Command that prints the token.")
    ] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option("--oidc-issuer", metavar="URL", help="Issuer that `ocf context login` asks for it.")
    ] = None,
    oidc_client_id: Annotated[
        str | None, typer.Option("--oidc-client-id", metavar="ID", help="Public client of the issuer, for devices.")
    ] = None,
    oidc_scope: Annotated[
        list[str] | None,
        typer.Option("--oidc-scope", show_default=_SCOPE, help="Scope that is asked for, repeated for more."),
    ] = None,
    oidc_audience: Annotated[
        str | None,
        typer.Option("--oidc-audience", metavar="AUD", help="Audience of the token (GATEWAY_JWT_AUDIENCE)."),
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Project of its calls.")] = None,
    json_output: JsonFlag = False,
) -> None:
    """Add a context, or replace it and its login. The first one becomes the current one.

    No token is stored here, only where it comes from: a file, a command, or an issuer and its `ocf context login`.
    """
    sources = {"--token-file": token_file, "--token-command": token_command, "--oidc-issuer": oidc_issuer}
    if len(given := [option for option, value in sources.items() if value is not None]) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other: each gives the token")
    if (oidc_issuer is None) != (oidc_client_id is None) or (oidc_issuer is None and (oidc_scope or oidc_audience)):
        raise typer.BadParameter("--oidc-issuer and --oidc-client-id need each other; other --oidc options need both")
    try:
        known = load()
        url = checked_url(gateway, "--gateway")
        made = Context(url, project, token_file, token_command)
        if oidc_issuer is not None:
            from ocf.cli.oidc import checked_issuer

            scope = " ".join(oidc_scope or [_SCOPE])
            made = replace(
                made,
                oidc_issuer=checked_issuer(oidc_issuer),
                oidc_client_id=oidc_client_id,
                oidc_scope=scope,
                oidc_audience=oidc_audience,
            )
        found = {**known.contexts, checked_name(name): made}
        _forget(name)  # it is of the former gateway and issuer
        _store(Contexts(known.current or name, found), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command()
def login(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The context; else the current one.")] = None,
    json_output: JsonFlag = False,
) -> None:
    """Log in at a context's issuer, in a browser on any machine.

    Standard error has the page to open and the code to enter there. The login is renewed while its issuer allows it;
    `ocf context remove` forgets it.
    """
    from ocf.cli import login_store, oidc

    try:
        known = load()
        if (name := name or known.current) is None:
            raise CallFailed("no context is the current one: name one")
        if (client := known.named(name).oidc) is None:
            raise CallFailed(f"context {name} has no issuer: add it again with --oidc-issuer and --oidc-client-id")
        with oidc.connected(client.issuer) as http:
            login_store.write(login_folder(name), oidc.log_in(client, _show_prompt, http))
        _show(known, json_output)
    except CallFailed as error:
        fail(str(error))


def _show_prompt(prompt: Prompt) -> None:
    until = datetime.fromtimestamp(prompt.ends_at).strftime("%H:%M")
    whole = f"or open\n  {prompt.whole_url}\n" if prompt.whole_url else ""
    text = f"open\n  {prompt.url}\nand enter the code\n  {prompt.code}\n{whole}waiting until {until}\n"
    sys.stderr.write(printable(text))
    sys.stderr.flush()


@app.command()
def use(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The context's name.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Use the stack on this machine again.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Make a context the current one: verbs use its gateway where nothing else names one."""
    if (name is None) != none:
        raise typer.BadParameter("NAME or --none is required")
    try:
        known = load()
        if name is not None:
            known.named(name)
        _store(replace(known, current=name), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command("list")
def list_(json_output: JsonFlag = False) -> None:
    """List the contexts; the current one is marked."""
    try:
        _show(load(), json_output)
    except CallFailed as error:
        fail(str(error))


@app.command()
def remove(name: Name, json_output: JsonFlag = False) -> None:
    """Remove a context and its login. Its token file stays."""
    try:
        known = load()
        known.named(name)
        _forget(name)
        rest = {one: context for one, context in known.contexts.items() if one != name}
        _store(Contexts(None if known.current == name else known.current, rest), json_output)
    except CallFailed as error:
        fail(str(error))


def _forget(name: str) -> None:
    from ocf.cli import login_store

    login_store.forget(login_folder(name))


def _store(found: Contexts, json_output: bool) -> None:
    store(found)
    _show(found, json_output)


def _show(found: Contexts, json_output: bool) -> None:
    items = listed(found)
    if json_output:
        print_json(items)
        return
    if not items:
        sys.stdout.write("no contexts; `ocf context add NAME --gateway URL` adds one\n")
        return
    from ocf.cli.render import listing as table

    screen = console()
    rows = [
        (
            "[green]*[/]" if item["current"] else " ",
            plain(item["name"]),
            plain(item["gateway"]),
            plain(item["project"] or ""),
            plain(item["token_file"] or item["token_command"] or _login_text(item)),
        )
        for item in items
    ]
    screen.print(table(("name", "gateway", "project", "token"), rows, screen.width))


def _login_text(item: dict[str, Any]) -> str:
    if item["oidc_issuer"] is None:
        return "no token"
    if item["login"] is None:
        return f"not logged in at {item['oidc_issuer']}"
    ends, renewed = datetime.fromisoformat(item["login"]["expires_at"]), item["login"]["renewed"]
    until = f"until {ends:%Y-%m-%d %H:%M}"
    if renewed:
        return f"logged in {until}, then renewed"
    return f"logged in {until}" if ends.timestamp() > time.time() else f"login ended, valid {until}"
