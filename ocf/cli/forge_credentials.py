"""`ocf credential ...`: forge credentials of a project, over the gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ocf.cli.common import console, fail, plain, print_json
from ocf.cli.verb import Call, verb

app = typer.Typer(no_args_is_help=True, help="Credentials for GitHub, GitLab and Gitea, by name.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the credential.")]


@app.command()
@verb()
async def create(
    call: Call,
    name: Name,
    forge: Annotated[str, typer.Option("--forge", help="github, gitlab or gitea (also for Forgejo).")] = "github",
    api_url: Annotated[
        str | None,
        typer.Option("--api-url", metavar="URL", help="API of your own forge: https://git.example.com/api/v1"),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="FILE", help="File with the token; `-` reads standard input.")
    ] = None,
    app_id: Annotated[int | None, typer.Option("--github-app", metavar="ID", help="Id of a GitHub App.")] = None,
    installation: Annotated[int | None, typer.Option("--installation", metavar="ID", help="Its installation.")] = None,
    private_key: Annotated[
        str | None,
        typer.Option("--private-key", metavar="FILE", help="Its private key (PEM); `-` reads standard input."),
    ] = None,
) -> int:
    """Store a credential, sealed; one of the same name is replaced. Secrets are read from files, not from arguments."""
    body = {
        "name": name,
        "project_id": call.project,
        "forge": forge,
        "api_url": api_url,
        "token": _secret(token),
        "app_id": app_id,
        "installation_id": installation,
        "private_key": _secret(private_key),
    }
    given = {field: value for field, value in body.items() if value is not None}
    return await call.answer("POST", "/credentials", given)


def _secret(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or 'not a text file'}")


@app.command("list")
@verb()
async def list_(call: Call) -> int:
    """List the project's credentials, without their secrets."""
    found = (await call.gateway.call("GET", "/credentials", project_id=call.project))["credentials"]
    if call.json:
        print_json(found)
        return 0
    if not found:
        return call.none("credentials")
    screen = console()
    for one in found:
        about = "  ".join(plain(one[field]) for field in ("forge", "kind", "api_url"))
        screen.print(f"[bold]{plain(one['name'])}[/]  {about}", highlight=False)
    return 0


@app.command()
@verb()
async def delete(call: Call, name: Name) -> int:
    """Remove a credential."""
    await call.gateway.call("DELETE", f"/credentials/{name}", project_id=call.project)
    return 0
