"""Static files of the built console: hashed files cached for ever, the page always fresh."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.settings import GatewaySettings

_NOT_BUILT = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Console not built</title>
<h1>The console is not built</h1>
<p>The gateway runs, and its API is at <a href="/openapi.json">/openapi.json</a>.</p>
<p>Build it with <code>make demo</code>, or <code>npm ci &amp;&amp; npm run build</code> in <code>console/</code>,
and name its folder in <code>CONSOLE_DIR</code>.</p>
</html>
"""


@dataclass(frozen=True)
class File:
    """A served file of the console."""

    content: bytes
    media_type: str
    etag: str


class Console:
    """Serves one folder. Files are read on request; the build's names distinguish versions."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._folder = settings.console_dir.resolve() if settings.console_dir else None
        self._policy = _policy(settings)

    async def answer(self, request: Request) -> Response:
        """Return the file that `request` names, or the page for other paths a browser navigates to.

        Raises:
            Problem: 404.
        """
        path = request.url.path.lstrip("/")
        file = await asyncio.to_thread(self._read, path or "index.html")
        page = not path or path == "index.html"
        if file is None and (page or _navigates(request)):
            page = True
            file = await asyncio.to_thread(self._read, "index.html")
            if file is None:
                return Response(_NOT_BUILT, 200 if not path else 404, self._headers("no-store"), "text/html")
        if file is None:
            raise Problem(404, "not-found", f"there is no {request.url.path} here")
        headers = self._headers("no-cache" if page or not path.startswith("assets/") else _FOR_EVER)
        headers["ETag"] = file.etag
        if request.headers.get("if-none-match") == file.etag:
            return Response(b"", 304, headers)
        return Response(file.content, 200, headers, file.media_type)

    def _read(self, path: str) -> File | None:
        if self._folder is None or "\x00" in path:
            return None
        # resolve() follows `..` and links: the result must still be inside.
        found = (self._folder / path).resolve()
        if not found.is_relative_to(self._folder) or not found.is_file():
            return None
        content = found.read_bytes()
        media_type = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return File(content, _TYPES.get(found.suffix, media_type), f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def _headers(self, cache: str) -> dict[str, str]:
        return {"Cache-Control": cache, "Content-Security-Policy": self._policy}


_FOR_EVER = "public, max-age=31536000, immutable"
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
}


def _navigates(request: Request) -> bool:
    """Return whether a browser opens a deep link: it asks for HTML, and the path names no file."""
    last = request.url.path.rsplit("/", 1)[-1]
    return "." not in last and "text/html" in request.headers.get("accept", "")


def _policy(settings: GatewaySettings) -> str:
    connect = ["'self'"]
    if settings.nats_ws_url:
        parts = urlsplit(settings.nats_ws_url)
        connect.append(f"{parts.scheme}://{parts.netloc}")
    return "; ".join(
        (
            "default-src 'self'",
            f"connect-src {' '.join(connect)}",
            "img-src 'self' data:",
            "font-src 'self' data:",
            "style-src 'self' 'unsafe-inline'",  # the terminal sets its cell sizes in style elements
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
