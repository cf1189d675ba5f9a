"""A history of 10,000 chunks opened in the console: when it can be used, and how smoothly it scrolls.

The stand-in gateway of `console/dev` serves it, so that what is measured is the console: reading, splicing, laying out,
drawing (in software: there is no graphics card). Needs Chromium and a built console.
"""

from __future__ import annotations

from playwright.async_api import Browser, Page, async_playwright

from benchmarks.harness import Options, Row, Target
from tests.support.console import CHROMIUM, QUIET, stand_in

LONG = "11111111-6f0e-4c6e-9f5e-2f4f6f1f7a11"
#: From the navigation to the frame after which the last chunk is known and the transcript can be scrolled, in ms.
OPENED = """
() => new Promise((done) => {
  const look = () => {
    const complete = document.querySelector('.execution-tabs .stream-pill.ended')
    const list = document.querySelector('.transcript-scroll')
    if (complete && list && list.scrollHeight > 10 * list.clientHeight)
      requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0))
    else requestAnimationFrame(look)
  }
  look()
})
"""
#: Scrolls for four seconds, a third of the window in every frame as a fast reader does; milliseconds of each frame.
SCROLLED = """
() => new Promise((done) => {
  const list = document.querySelector('.transcript-scroll')
  list.scrollTop = 0
  const frames = []
  let before = null
  const step = (now) => {
    if (before !== null) frames.push(now - before)
    before = now
    list.scrollTop += list.clientHeight / 3
    if (frames.reduce((sum, one) => sum + one, 0) < 4000) requestAnimationFrame(step)
    else done(frames)
  }
  requestAnimationFrame(step)
})
"""


async def _once(browser: Browser, address: str) -> tuple[float, list[float]]:
    """Milliseconds until it can be used, and of each frame of scrolling."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, base_url=address)
    page: Page = await context.new_page()
    await page.goto(f"/#/tasks/{LONG}", wait_until="commit")
    opened = float(await page.evaluate(OPENED))
    frames = [float(each) for each in await page.evaluate(SCROLLED)]
    await context.close()
    return opened, frames


async def measure(options: Options) -> list[Row]:
    """Fresh pages, one after the other. Raises RuntimeError where there is no Chromium."""
    if not CHROMIUM:
        raise RuntimeError("there is no Chromium")
    opened, rates, low = list[float](), list[float](), list[float]()
    with stand_in() as address:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            await _once(browser, address)
            for _ in range(options.of(10)):
                took, frames = await _once(browser, address)
                opened.append(took)
                rates.append(1000 * len(frames) / sum(frames))
                low.append(1000 / sorted(frames)[int(0.95 * len(frames))])
            await browser.close()
    named = "10,000-chunk history in the console"
    return [
        Row(f"{named}: opened to usable", "ms", opened, target=Target("p50", 1000)),
        Row(f"{named}: frames per second while it scrolls", "fps", rates, target=Target("p50", 50, at_least=True)),
        Row(f"{named}: the same, of the slowest twentieth", "fps", low, note="1 / p95 of the time between frames"),
    ]
