"""A real OpenID Connect provider (npm `oidc-provider`), and the person who answers its pages in a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx2

from tests.support import npm
from tests.support.offline import ROOT, node

AUDIENCE = "urn:gateway"


@contextmanager
def provider(seconds: int, project: str) -> Iterator[str]:
    """Yields the issuer. Its access tokens are valid that long, for that project."""
    script = str(ROOT / "tests/support/oidc_npm/provider.mjs")
    command = [str(node()), script, AUDIENCE, str(seconds), project]
    folder = npm.modules("oidc").parent
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


class _Form(HTMLParser):
    """The first form of a page, and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        if tag == "input" and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or ""


def answer(url: str, allow: bool = True) -> str:
    """Go through the pages of a login from `verification_uri_complete` on; returns the last one."""
    with httpx2.Client(follow_redirects=True, timeout=20, trust_env=False) as browser:
        page = browser.get(url)
        for _ in range(10):
            form = _Form(page.text)
            if form.action is None:
                return page.text
            fields = {**form.fields, **{name: "ada" for name in ("login", "password") if name in form.fields}}
            if not allow and fields.get("confirm"):
                fields["abort"] = "yes"
            page = browser.post(urljoin(str(page.url), form.action), data=fields)
            if fields.get("abort"):
                return page.text
    raise AssertionError(f"the pages do not end: {page.text}")
