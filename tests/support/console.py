"""The built console, a browser for it, and the stand-in gateway of `console/dev`, which has a state of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from ocf.stack.tools import node

ROOT = Path(__file__).parents[2]
CONSOLE = ROOT / "console"
AXE = CONSOLE / "node_modules/axe-core/axe.min.js"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
    # No network: the console has to do with this machine's servers alone.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip
SECOND = 1_000
# Playwright's five seconds are too few for a page on a machine with a load of 20.
expect.set_options(timeout=30 * SECOND)


def build() -> None:
    """Build the console, unless what is built is newer than every source of it."""
    built = CONSOLE / "dist/stream/package.json"
    told = ("index.html", "package.json", "vite.config.ts")
    sources = [*(CONSOLE / name for name in told), *(CONSOLE / "src").rglob("*.*")]
    if not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        subprocess.run([ROOT / "scripts/npm.sh", "run", "build"], cwd=CONSOLE, check=True, capture_output=True)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A real Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def stand_in() -> Iterator[str]:
    """The stand-in gateway with the built console; its address."""
    build()
    environ = {**os.environ, "PORT": "0", "DIST": "dist", "OFFLINE": "1"}
    process = subprocess.Popen(
        [str(node()), "dev/server.mjs"], cwd=CONSOLE, env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server of that folder's files, which is not the gateway; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Not into the tests' output."""


def pill(page: Page) -> Locator:
    """What a page of an execution says about its connection."""
    return page.locator(".execution-tabs .stream-pill")


def seen(page: Page) -> list[dict[str, Any]]:
    """What the page has got, from its own download."""
    page.get_by_label("Download").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Output as NDJSON").click()
    return [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]


def essence(chunks: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """What must be the same wherever a chunk is read."""
    return [(chunk["seq"], chunk["type"], chunk["data"]) for chunk in chunks]


def record_states(page: Page) -> None:
    """From now on keep every state that the page reports."""
    page.evaluate(
        """() => {
            const pill = document.querySelector('.execution-tabs .stream-pill');
            window.states = [];
            const note = () => window.states.push(`${pill.className.split(' ').at(-1)}: ${pill.title}`);
            note();
            new MutationObserver(note)
                .observe(pill, { attributes: true, attributeFilter: ['class'] });
        }"""
    )


def states(page: Page) -> dict[str, str]:
    """Each state that was reported, with its explanation."""
    return dict(one.split(": ", 1) for one in page.evaluate("window.states"))


def wait_for(page: Page, true: Callable[[], bool], what: str) -> None:
    """Wait until it is true of more than the page says."""
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit, f"never: {what}"
        page.wait_for_timeout(50)
