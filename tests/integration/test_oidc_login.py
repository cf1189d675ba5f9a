"""`ocf context login` with a provider that nobody here wrote, and a gateway that checks its tokens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from ocf.functions.gateway.settings import GatewaySettings
from tests.integration.test_docs_run import block
from tests.support.gateway_server import serving
from tests.support.nats import NatsServer
from tests.support.offline import ROOT
from tests.support.oidc import AUDIENCE, answer, provider


async def started(tmp_path: Path, *argv: str, **environ: str) -> Process:
    """A process as its user starts it, without a terminal."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("OCF_")}
    given |= {"OCF_CONTEXTS": str(tmp_path / "contexts.json"), "PYTHONPATH": str(ROOT), **environ}
    given["PATH"] = f"{tmp_path}:{given['PATH']}"
    return await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE, env=given, cwd=tmp_path)


async def log_in(process: Process, allow: bool) -> tuple[int | None, str, str]:
    """Open the printed page in a browser, and answer there. Returns exit status, output and errors."""
    assert process.stderr is not None
    prompt = (await process.stderr.readuntil(b"waiting until")).decode()
    page = re.search(r"or open\n  (\S+)\n", prompt)
    assert page is not None
    await asyncio.to_thread(answer, page[1], allow)
    out, err = await process.communicate()
    return process.returncode, out.decode(), prompt + err.decode()


async def test_a_login_in_a_browser_is_renewed_while_its_user_watches(nats_server: NatsServer, tmp_path: Path) -> None:
    """The device flow gives a token that the gateway takes; when it ends, `ocf watch` goes on with the next one.

    The lines of docs/how-to/use-a-cluster.md log in. A user who aborts in the browser gets a clear error, and the
    former login stays. No token is in any output.
    """
    execution = str(uuid.uuid4())
    (tmp_path / "ocf").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocf.cli.main "$@"\n')
    (tmp_path / "ocf").chmod(0o755)
    with provider(4, "team") as issuer:
        settings = GatewaySettings(jwks_url=f"{issuer}/jwks", jwt_issuer=issuer, jwt_audience=AUDIENCE, heartbeat=1)
        async with serving(nats_server, settings) as served:
            page = block("docs/how-to/use-a-cluster.md", "login")
            shell = await started(tmp_path, "bash", "-euc", page, GATEWAY=served.url, ISSUER=issuer)
            allowed = await log_in(shell, allow=True)
            assert (allowed[0], "logged in until" in allowed[1]) == (0, True), allowed[2]
            refused = await log_in(await started(tmp_path, "ocf", "context", "login"), allow=False)
            assert (refused[0], "the login was refused in the browser" in refused[2]) == (1, True)
            login = tmp_path / "logins/team/login.json"
            first = json.loads(login.read_text())

            await served.record(execution, "team")
            await served.say(execution, 1, 1, "team")
            watching = await started(tmp_path, "ocf", "watch", execution, "--json")
            assert watching.stdout is not None
            lines = [await watching.stdout.readline()]
            before = json.loads(login.read_text())
            async with asyncio.timeout(20):
                while json.loads(login.read_text())["access_token"] == before["access_token"]:
                    assert watching.returncode is None, await watching.communicate()
                    await asyncio.sleep(0.05)
            await served.say(execution, 2, 3, "team")
            await served.end(execution, 3, "team")
            out, errors = await watching.communicate()
            lines += out.splitlines()
    last = json.loads(login.read_text())
    assert [json.loads(line)["seq"] for line in lines if b'"seq"' in line] == [1, 2, 3]
    assert (watching.returncode, b"expired" in errors) == (0, False), errors
    shown = "".join((*refused[1:], *allowed[1:], out.decode(), errors.decode()))
    assert not any(one[kind] in shown for one in (first, last) for kind in ("access_token", "refresh_token"))
