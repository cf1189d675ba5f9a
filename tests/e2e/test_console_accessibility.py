"""Every screen of the console under axe-core, light and dark, at desktop and at phone width; and by keyboard alone.

Against the stand-in gateway of `console/dev`: it has an execution in every state, at once and always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.console import AXE, CHROMIUM, stand_in
from tests.support.screens import ASKING, DESKTOP, PHONE, SCREENS, reach

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (or CHROMIUM=PATH)"),
    pytest.mark.timeout(600),
]

#: The colours of the dark, with no button on its way to them.
DARK = """() => {
    document.documentElement.dataset.theme = "dark"
    getComputedStyle(document.body).color
    for (const one of document.getAnimations()) if (one instanceof CSSTransition) one.finish()
}"""
#: The name of what has the focus, and whether it or what stands for it has an outline or a ring.
FOCUSED = """() => {
    const one = document.activeElement
    const near = [one, one.nextElementSibling, one.parentElement].filter(Boolean)
    const styles = near.map((each) => getComputedStyle(each))
    const shown = styles.some((style) => style.outlineStyle !== "none" || style.boxShadow !== "none")
    return [(one.ariaLabel ?? one.textContent).trim(), shown]
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with stand_in() as address:
        yield address


def problems(page: Page, *rules: str) -> list[str]:
    """What axe-core finds: WCAG 2.2 A and AA, and its best practices; or `rules` only."""
    page.add_script_tag(path=AXE)  # anew: it remembers colours from one run to the next
    what = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate("what => axe.run(document, what)", what)
    return [
        f"{one['id']}: {node['html'][:120]} {' '.join(node['failureSummary'].split())}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_screen_has_a_problem_that_a_tool_can_find(browser: Browser, address: str, size: Any) -> None:
    """axe-core has nothing to say of any screen and any of its states, nor of its colours in the dark; and nothing is
    wider than the window."""
    found: list[str] = []
    for name in SCREENS:
        context = browser.new_context(viewport=size, base_url=address, color_scheme="light", reduced_motion="reduce")
        page = context.new_page()
        reach(page, name)
        found += [f"{name}: {problem}" for problem in problems(page)]
        page.evaluate(DARK)
        found += [f"{name}, dark: {problem}" for problem in problems(page, "color-contrast")]
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        found += [f"{name}: {wider} px wider than the window"] if wider > 0 else []
        context.close()
    assert not found, "\n".join(found)


def test_everything_is_reached_by_keyboard(browser: Browser, address: str) -> None:
    """Tab alone: the skip link comes first and leads past the navigation; a menu opens with Enter and Escape gives the
    focus back; a dialog keeps the focus and gives it back; whatever has the focus shows it."""
    context = browser.new_context(viewport=DESKTOP, base_url=address, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"/#/tasks/{ASKING}")
    expect(page.locator(".waiting")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    reached = walk(page, page.get_by_role("button", name="Allow once"))
    for wanted in ("Executions", "Cancel", "Replay", "Download", "More", "Transcript", "Terminal", "Search the output"):
        assert wanted in reached, reached
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Always allow")).to_be_focused()

    download = page.locator("summary[aria-label=Download]")
    download.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Output as text")).to_be_focused()
    page.keyboard.press("Escape")
    expect(download).to_be_focused()
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    cancel.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(cancel).to_be_focused()
    context.close()


def walk(page: Page, end: Locator, most: int = 40) -> list[str]:
    """Names of what Tab reaches before `end`; each shows that it has the focus."""
    names = []
    for _ in range(most):
        page.keyboard.press("Tab")
        if end.evaluate("one => one === document.activeElement"):
            return names
        name, shown = page.evaluate(FOCUSED)
        assert shown, f"{name}: the focus is not to be seen"
        names.append(name)
    raise AssertionError(f"not reached by {most} tabs: {names}")
