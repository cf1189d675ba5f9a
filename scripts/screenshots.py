"""Pictures of the console: `python -m scripts.screenshots` (`make screenshots`).

Every screen and state, light and dark, wide and narrow, from the stand-in gateway of `console/dev`, into
`test-results/screens`. With `--docs` those of `docs/images` too: of a whole stack with a real OpenCode, whose model
alone is scripted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, expect

from tests.support.console import ROOT, SECOND, pill, running_browser, stand_in
from tests.support.screens import DESKTOP, PHONE, SCREENS, reach

OCF = Path(sys.executable).with_name("ocf")
FOLDER = ROOT / "test-results/screens"
IMAGES = ROOT / "docs/images"
PROMPT = "Run the tests, find out why one fails, and fix it."
REPO = {"source": "directory", "path": str(ROOT / "demo/repo")}
RUN = 120 * SECOND
#: What the list shows below the run that is watched, oldest first.
BEFORE: tuple[dict[str, Any], ...] = (
    {"prompt": "List what is in the workspace", "project_id": "web", "labels": {"ticket": "WEB-7"}, "workspace": REPO},
    {
        "prompt": "Update the dependencies of the billing service",
        "project_id": "billing",
        "labels": {"team": "billing"},
        "workspace": {"source": "directory", "path": "/srv/billing"},
    },
    {"prompt": PROMPT, "labels": {"team": "core", "ticket": "CORE-118"}, "workspace": REPO},
)
ASKED = {"permissions": {"bash": "ask"}, "limits": {"answer_seconds": 600}}


def screens(browser: Browser) -> None:
    """Every screen of the stand-in."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with stand_in() as address:
        for theme in ("light", "dark"):
            for width, size in (("wide", DESKTOP), ("narrow", PHONE)):
                for name in SCREENS:
                    context = browser.new_context(
                        viewport=size, base_url=address, color_scheme=theme, reduced_motion="reduce"
                    )
                    page = context.new_page()
                    reach(page, name)
                    page.screenshot(path=FOLDER / f"{name.replace(',', '').replace(' ', '-')}-{width}-{theme}.png")
                    context.close()


def docs(browser: Browser) -> None:
    """The pictures of the README, of a stack of their own."""
    with tempfile.TemporaryDirectory(prefix="ocf-") as data:
        command = [OCF, "up", "--detach", "--json", "--data-dir", data]
        told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        stack: dict[str, str] = json.loads(told.stdout)
        try:
            with httpx2.Client(base_url=stack["gateway"], trust_env=False) as gateway:
                for body in BEFORE:
                    ended(gateway, submit(gateway, body))
                submit(gateway, {"prompt": PROMPT, "labels": {"team": "core"}, "workspace": REPO, **ASKED})
                labels = {"team": "core", "ticket": "CORE-121"}
                watched = submit(gateway, {"prompt": PROMPT, "labels": labels, "workspace": REPO})
            context = browser.new_context(
                viewport=DESKTOP, base_url=stack["console"], color_scheme="dark", reduced_motion="reduce"
            )
            page = context.new_page()
            running(page, watched)
            page.screenshot(path=IMAGES / "execution-dark.png")
            page.emulate_media(color_scheme="light")
            page.goto("/#/")
            expect(page.locator(".card").filter(has_text="Needs you")).to_be_visible(timeout=RUN)
            page.screenshot(path=IMAGES / "history-light.png")
            page.goto(f"/#/tasks/{watched}")
            expect(pill(page)).to_contain_text("Complete", timeout=RUN)
            page.goto(f"/#/tasks/{watched}/replay?t=1")
            page.get_by_label("Position").press("End")
            for _ in range(4):
                page.get_by_label("Previous step").click()
            expect(page.locator(".row-tool").filter(has_text="durations/humanize.py").first).to_be_visible()
            page.screenshot(path=IMAGES / "replay-light.png")
        finally:
            subprocess.run([OCF, "down", "--data-dir", data], cwd=ROOT, check=True, capture_output=True)


def running(page: Page, execution: str) -> None:
    """The page of that execution, in the midst of its work."""
    page.goto(f"/#/tasks/{execution}")
    expect(pill(page)).to_contain_text("Live", timeout=RUN)
    expect(page.locator(".execution-side")).to_contain_text("2 of 3", timeout=RUN)


def submit(gateway: httpx2.Client, body: dict[str, Any]) -> str:
    """The execution's id."""
    execution: str = gateway.post("/tasks/execute", json=body).raise_for_status().json()["execution_id"]
    return execution


def ended(gateway: httpx2.Client, execution: str) -> None:
    """Wait for its end.

    Raises:
        TimeoutError: it goes on and on.
    """
    limit = time.monotonic() + RUN / SECOND
    while not gateway.get(f"/tasks/{execution}/status").json().get("ended_at"):  # a problem has none either
        if time.monotonic() > limit:
            raise TimeoutError(execution)
        time.sleep(0.2)


if __name__ == "__main__":
    with running_browser() as chromium:
        screens(chromium)
        if "--docs" in sys.argv:
            docs(chromium)
