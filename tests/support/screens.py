"""Every screen of the console and every state of it that the stand-in gateway can show: how one gets there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from tests.support.console import SECOND

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ENDED, LOST, ASKING = (f"{start}-6f0e-4c6e-9f5e-2f4f6f1f7a11" for start in ("0b9f3f0e", "22222222", "44444444"))
#: Seconds into the replay at which it shows a failed command.
AT = 12


def wrong_address(page: Page) -> None:
    page.get_by_label("What is to be done?").fill("anything")
    page.get_by_role("radio", name="Git repository").check()
    page.get_by_label("Address").fill("ftp://x")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".field.wrong input")).to_be_focused()


def all_groups(page: Page) -> None:
    for summary in page.locator("details.group > summary").all():
        summary.click()
    page.get_by_role("group", name="Shell commands").get_by_role("radio", name="Ask me").check()


def refused(page: Page) -> None:
    page.route("**/tasks?*", lambda route: route.fulfill(status=401, json={"detail": "send a token"}))
    page.reload()
    expect(page.get_by_role("dialog")).to_be_visible()


def rule_and_event(page: Page) -> None:
    page.get_by_role("button", name="com.github.issues.labeled").click()
    page.get_by_role("button", name="Test").first.click()
    page.get_by_role("button", name="Test it").click()


def wrong_cron(page: Page) -> None:
    page.get_by_role("button", name="New schedule").click()
    page.get_by_label("Cron").fill("never")
    page.get_by_role("button", name="Create").click()


def new_secret(page: Page) -> None:
    page.get_by_role("button", name="New credential").click()
    page.get_by_role("button", name="New secret").click()


#: Name of the screen or of its state: address, what is done there, what then is visible.
SCREENS: dict[str, tuple[str, Callable[[Page], Any] | None, str]] = {
    "history": ("/#/", None, ".card h3"),
    "nothing found": ("/#/?q=no-such-title", None, ".empty"),
    "new": ("/#/new", wrong_address, ".submit .outcome"),
    "new, all open": ("/#/new", all_groups, ".group[open] .pair"),
    "running": (f"/#/tasks/{ASKING}", None, ".execution:has(.connected) .waiting"),
    "ended, retried, with a gap": (f"/#/tasks/{LOST}", None, ".row-attempt"),
    "terminal": (f"/#/tasks/{ENDED}?view=terminal", None, ".xterm-rows :text('completed')"),
    "changes": (f"/#/tasks/{ENDED}?view=changes", None, ".diff-file"),
    "details": (f"/#/tasks/{ENDED}?view=details", None, ".details .todo"),
    "replay": (f"/#/tasks/{ENDED}/replay?t={AT}", None, ".player"),
    "compare with": (f"/#/tasks/{ENDED}/compare", None, ".compare-choice a"),
    "compared": (f"/#/tasks/{ENDED}/compare?with={LOST}", None, ".compare-row"),
    "a question before": (
        f"/#/tasks/{ASKING}",
        lambda page: page.get_by_role("button", name="Cancel", exact=True).click(),
        "dialog[open]",
    ),
    "menu": (f"/#/tasks/{ENDED}", lambda page: page.get_by_label("Download").click(), ".menu[open] .menu-items"),
    "usage": ("/#/usage?by=model", None, ".charts canvas"),
    "sessions": ("/#/sessions", lambda page: page.get_by_role("button", name="New session").click(), ".inline-form"),
    "triggers": ("/#/triggers", rule_and_event, ".letter-body .tool-output"),
    "a new rule": ("/#/triggers", lambda page: page.get_by_role("button", name="New rule").click(), ".inline-form"),
    "schedules": ("/#/schedules", wrong_cron, ".inline-form .wrong"),
    "credentials and hooks": ("/#/access", new_secret, ".once"),
    "dead letters": ("/#/dead-letters", lambda page: page.locator(".plain-link").first.click(), ".letter-body pre"),
    "no such execution": ("/#/tasks/none", None, ".empty"),
    "a token is needed": ("/#/", refused, "dialog[open]"),
}  # fmt: skip


def reach(page: Page, name: str) -> None:
    """Go to that screen, and wait until it is what it is called."""
    path, act, shown = SCREENS[name]
    page.goto(path)
    if act:
        act(page)
    expect(page.locator(shown).locator("visible=true").first).to_be_visible(timeout=10 * SECOND)
