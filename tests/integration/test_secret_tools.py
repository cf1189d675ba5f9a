"""The table of docs/how-to/use-secrets.md: which tools work through a secret route, each with the real tool."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from ocf.events.redaction import Redactor
from ocf.functions.execute.egress_proxy import EgressProxy, rules
from ocf.functions.execute.secret_routes import Route, SecretRoutes, injected
from tests.support.git_http import git_server
from tests.support.offline import node

VALUE = "tok-tools-9xQ4-0123456789"


def package() -> bytes:
    """An npm package."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        content = json.dumps({"name": "demo", "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def wheel() -> bytes:
    """A Python distribution."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("demo.py", "ANSWER = 42\n")
        archive.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("demo-1.0.dist-info/RECORD", "")
    return out.getvalue()


PACKAGE, WHEEL = package(), wheel()


class Registry(ThreadingHTTPServer):
    """npm registry and Python index behind one token, as a host of its own name would be."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def content(self, path: str) -> bytes | None:
        digest = base64.b64encode(hashlib.sha512(PACKAGE).digest()).decode()
        # Absolute, as every npm registry answers.
        dist = {"tarball": f"{self.url}/demo/-/demo-1.0.0.tgz", "integrity": f"sha512-{digest}"}
        version = {"name": "demo", "version": "1.0.0", "dist": dist}
        listed = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        files = {
            "/demo": json.dumps(listed).encode(),
            "/demo/-/demo-1.0.0.tgz": PACKAGE,
            "/simple/demo/": b'<a href="../../files/demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>',
            "/files/demo-1.0-py3-none-any.whl": WHEEL,
            "/hello": b"hello",
        }
        return files.get(path)


class _Files(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {VALUE}"
        content = self.server.content(self.path) if known else b"no token"
        self.send_response(401 if not known else 404 if content is None else 200)
        self.send_header("Content-Type", "text/html" if "simple" in self.path else "application/octet-stream")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry()
    thread = threading.Thread(target=registry.serve_forever, daemon=True)
    thread.start()
    yield registry
    registry.shutdown()
    registry.server_close()
    thread.join()


Tool = Callable[..., "asyncio.Future[tuple[int, str]]"]


@asynccontextmanager
async def routed(url: str, folder: Path, format: str = "Bearer {}") -> AsyncIterator[Tool]:
    """Run tools in `folder` with the route's URL in their environment, and without the secret."""
    host = url.split("/")[2]
    async with SecretRoutes([host]) as routes:
        header, values = injected(format, VALUE)
        base = routes.open(Route("KEY", url, {"Authorization": header}, Redactor(values)))
        path = f"{Path(sys.executable).parent}:{node().parent}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(folder), "OCF_SECRET_KEY_URL": base, "GIT_TERMINAL_PROMPT": "0", "CI": "1"}

        async def run(script: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                "bash", "-ec", script, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            async with asyncio.timeout(180):
                said, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, said.decode()

        yield run  # type: ignore[misc]


async def test_curl(registry: Registry, tmp_path: Path) -> None:
    """curl takes the URL with a path behind it."""
    async with routed(registry.url, tmp_path) as run:
        assert await run("curl -fsS $OCF_SECRET_KEY_URL/hello") == (0, "hello")


async def test_git(tmp_path: Path) -> None:
    """`insteadOf` sends clone, fetch and push of unchanged addresses through the route."""
    bare, folder = tmp_path / "served/app.git", tmp_path / "work"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", bare], check=True)
    subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)
    with git_server(tmp_path / "served", VALUE) as server:
        address = server.url.rstrip("/")
        script = f"""
            git config --global url."$OCF_SECRET_KEY_URL/".insteadOf "{address}/"
            git clone -q {address}/app.git app && cd app
            git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one
            git push -q origin HEAD:main && git fetch -q && git log --format=%s origin/main
        """
        async with routed(address, folder, "Basic x-access-token:{}") as run:
            code, said = await run(script)
        assert (code, said.splitlines()[-1]) == (0, "one"), said
        assert set(server.logins) == {f"x-access-token:{VALUE}"}


async def test_pip(registry: Registry, tmp_path: Path) -> None:
    """pip takes it as its index, as long as the index links its files relatively."""
    async with routed(registry.url, tmp_path) as run:
        code, said = await run(
            "python -m pip install -q --no-deps --disable-pip-version-check --target lib "
            "--index-url $OCF_SECRET_KEY_URL/simple demo; cat lib/demo.py"
        )
    assert (code, said.splitlines()[-1]) == (0, "ANSWER = 42"), said


NPM = "npm_config_registry=$OCF_SECRET_KEY_URL/ npm_config_fetch_retries=0 npm_config_audit=false npm"


async def test_npm_install(registry: Registry, tmp_path: Path) -> None:
    """npm takes it as its registry; the addresses of the packages need `replace-registry-host=always`."""
    async with routed(registry.url, tmp_path) as run:
        plain = await run(f"{NPM} install demo")
        code, said = await run(f"{NPM} install --replace-registry-host=always demo; cat node_modules/demo/package.json")
    assert plain[0] != 0
    assert "401" in plain[1]
    assert code == 0, said
    assert '"demo"' in said


async def test_npm_ci(registry: Registry, tmp_path: Path) -> None:
    """`npm ci` takes the absolute addresses of the lock and so misses the route, unless told to replace their hosts."""
    locked = {"version": "1.0.0", "resolved": f"{registry.url}/demo/-/demo-1.0.0.tgz"}
    root = {"name": "app", "dependencies": {"demo": "1.0.0"}}
    lock = {"name": "app", "lockfileVersion": 3, "packages": {"": root, "node_modules/demo": locked}}
    (tmp_path / "package.json").write_text(json.dumps(root))
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    async with routed(registry.url, tmp_path) as run:
        plain = await run(f"{NPM} ci")
        code, said = await run(f"{NPM} ci --replace-registry-host=always; cat node_modules/demo/package.json")
    assert plain[0] != 0
    assert "401" in plain[1]
    assert code == 0, said
    assert '"demo"' in said


_CLIENT = """
import os, sys
from websockets.sync.client import connect
from websockets.exceptions import InvalidStatus
try:
    with connect(sys.argv[1], open_timeout=20, proxy=True) as socket:
        socket.send("hello")
        print(socket.recv(timeout=20))
except InvalidStatus as error:
    print(error.response.status_code, error.response.body.decode())
"""


async def test_a_websocket_through_a_route_is_refused_with_what_to_do(registry: Registry, tmp_path: Path) -> None:
    """A real client sees 501 and the reason, and the origin sees nothing."""
    (tmp_path / "client.py").write_text(_CLIENT)
    async with routed(registry.url, tmp_path) as run:
        code, said = await run("python client.py ${OCF_SECRET_KEY_URL/http:/ws:}/hello")
    assert code == 0, said
    assert said.startswith("501 ")
    assert "use the HTTP API of the origin" in said
    assert VALUE not in said


async def test_a_websocket_without_a_secret_goes_through_the_egress_proxy(tmp_path: Path) -> None:
    """The same client with the environment of an agent whose task allows the host, and one that does not."""
    (tmp_path / "client.py").write_text(_CLIENT)

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async def names(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with serve(echo, "127.0.0.1", 0) as served:
        port = next(iter(served.sockets)).getsockname()[1]
        allowed = rules([f"site.example:{port}"], [f"site.example:{port}"])
        async with EgressProxy(allowed, resolver=names) as proxy:
            env = {"PATH": os.environ["PATH"], **proxy.env()}
            said = []
            for host in ("site.example", "other.example"):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "client.py", f"ws://{host}:{port}/"),
                    **{"cwd": tmp_path, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
                )
                async with asyncio.timeout(60):
                    said.append((await process.communicate())[0].decode())
    assert said[0] == "hello\n"
    assert "403" in said[1]


async def test_https_only_tools(registry: Registry, tmp_path: Path) -> None:
    """A route answers plain HTTP/1.1: no HTTP/2 (which gRPC needs), no TLS."""
    async with routed(registry.url, tmp_path) as run:
        h2, _ = await run("curl -fsS -m 20 --http2-prior-knowledge $OCF_SECRET_KEY_URL/hello")
        tls, _ = await run("curl -fsS -m 20 ${OCF_SECRET_KEY_URL/http:/https:}/hello")
    assert h2 != 0
    assert tls != 0
