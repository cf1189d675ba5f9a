"""A history of 10,000 chunks opened in the console: when it can be used, and how smoothly it scrolls.

The stand-in gateway of `console/dev` serves it, so that what is measured is the console: reading, splicing, laying out,
drawing (in software: there is no graphics card). Needs Chromium and a built console.
"""

from __future__ import annotations

from dataclasses import dataclass

from playwright.async_api import Browser, CDPSession, async_playwright

from benchmarks.measurement import Options, Row, Target
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


@dataclass(frozen=True)
class Seen:
    """One page: milliseconds until it can be used and of each frame; processor time of its thread for both."""

    opened: float
    frames: list[float]
    opened_cpu: float
    frame_cpu: float


async def _cpu(session: CDPSession) -> float:
    """Milliseconds of processor time of the page's main thread: script, style, layout, paint."""
    told = await session.send("Performance.getMetrics")
    return 1000 * next(float(one["value"]) for one in told["metrics"] if one["name"] == "TaskDuration")


async def _once(browser: Browser, address: str) -> Seen:
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, base_url=address)
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    # Of the thread, not of the clock: it means the same on a crowded machine.
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    await page.goto(f"/#/tasks/{LONG}", wait_until="commit")
    opened = float(await page.evaluate(OPENED))
    opened_cpu = await _cpu(session)
    frames = [float(each) for each in await page.evaluate(SCROLLED)]
    frame_cpu = (await _cpu(session) - opened_cpu) / len(frames)
    await context.close()
    return Seen(opened, frames, opened_cpu, frame_cpu)


async def measure(options: Options) -> list[Row]:
    """Fresh pages, one after the other. Raises RuntimeError where there is no Chromium."""
    if not CHROMIUM:
        raise RuntimeError("there is no Chromium")
    seen: list[Seen] = []
    with stand_in() as address:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            await _once(browser, address)
            for _ in range(options.of(20)):
                seen.append(await _once(browser, address))
            await browser.close()
    rates = [1000 * len(one.frames) / sum(one.frames) for one in seen]
    low = [1000 / sorted(one.frames)[int(0.95 * len(one.frames))] for one in seen]
    named = "10,000-chunk history in the console"
    return [
        Row(f"{named}: opened to usable", "ms", [one.opened for one in seen], target=Target("p50", 1000)),
        Row(f"{named}: the same, processor time of the page's thread", "ms", [one.opened_cpu for one in seen]),
        Row(f"{named}: frames per second while it scrolls", "fps", rates, target=Target("p50", 50, at_least=True)),
        Row(f"{named}: the same, of the slowest twentieth", "fps", low, note="1 / p95 of the time between frames"),
        Row(f"{named}: a frame of scrolling, processor time of the page's thread", "ms", [o.frame_cpu for o in seen]),
    ]
