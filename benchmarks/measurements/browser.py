"""A chunk said by execute to its message in Chromium, beside a bare NATS publish to the same page, at 200 a second.

The page speaks the NATS protocol over nats-server's own WebSocket with a dozen lines of its own, so that no client
library is measured. Both ways reach the same page one after the other, in blocks.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nkeys

from benchmarks.measurement import Options, Row, Target, quantile, thinned
from benchmarks.measurements.publish import PROJECT, SECRETS, Held
from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.events.output import ChunkType, Draft
from ocf.events.redaction import Redactor
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.attempt.output_publisher import Publisher
from ocf.functions.runtime.nats_auth import mint_viewer
from ocf.functions.runtime.setup import apply
from tests.support.nats import ORIGIN, running_nats

CHROMIUM = Path("/usr/bin/chromium")
RATE = 200
#: The page is of no real host; Chromium would keep such a one from connecting to this machine.
ARGUMENTS = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"]
PAGE = """
async ({url, jwt, subject}) => {
  const delays = window.delays = []
  const socket = new WebSocket(url)
  socket.binaryType = "arraybuffer"
  const decoder = new TextDecoder()
  await new Promise((listening, failed) => {
    socket.onclose = () => failed(new Error("closed"))
    socket.onmessage = async ({data}) => {
      const now = performance.timeOrigin + performance.now()
      const text = decoder.decode(data)
      for (const found of text.matchAll(/@([0-9.]{10,20})@/g)) delays.push(now - Number(found[1]))
      if (text.startsWith("INFO ")) {
        const sig = await window.sign(JSON.parse(text.slice(5, text.indexOf("\\r\\n"))).nonce)
        const hello = {verbose: false, pedantic: false, headers: true, no_responders: true, jwt, sig}
        socket.send(new TextEncoder().encode(`CONNECT ${JSON.stringify(hello)}\\r\\nSUB ${subject} 1\\r\\nPING\\r\\n`))
      } else if (text.startsWith("PONG")) listening()
      else if (text.startsWith("-ERR")) failed(new Error(text))
      if (text.includes("PING\\r\\n")) socket.send(new TextEncoder().encode("PONG\\r\\n"))
    }
  })
}
"""


def mark() -> str:
    """The time now, in milliseconds as browsers count it, and filling to 256 bytes."""
    return f"@{time.time() * 1000:.3f}@".ljust(256, "x")


async def paced(count: int, say: Callable[[], Awaitable[Any]]) -> None:
    """Call `say` that many times at the rate."""
    start = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        await say()


async def block(page: Any, count: int, say: Callable[[], Awaitable[Any]]) -> list[float]:  # noqa: ANN401
    """One block of messages to the page; milliseconds of each."""
    await page.evaluate("window.delays.length = 0")
    await paced(count, say)
    await page.wait_for_function(f"window.delays.length >= {count}", timeout=20_000)
    return [float(each) for each in await page.evaluate("window.delays.slice()")]


async def measure(options: Options) -> list[Row]:
    """Blocks in turn. Raises RuntimeError where there is no Chromium."""
    from playwright.async_api import async_playwright

    if not CHROMIUM.exists():
        raise RuntimeError(f"{CHROMIUM} is not installed")
    count, blocks = (40, 2) if options.quick else (RATE * 2, 6)
    found: list[list[float]] = [[], [], []]
    p99: list[list[float]] = [[], [], []]
    execution = str(uuid.uuid4())
    live = subjects.live(PROJECT, execution)
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_nats(Path(folder), streams=False) as nats:
        bus = await connect(nats.url, creds=nats.creds, name="bench")
        await apply(bus)
        publisher = Publisher(bus, SystemClock(), Redactor(SECRETS), project=PROJECT, execution=execution)
        publisher.begin(1, await acquire_fence(bus, PROJECT, execution), max_bytes=0, ownership=Held())
        viewer = mint_viewer(
            nats.trust.viewer_signing, nats.account, PROJECT, execution, ttl=3600, now=int(time.time())
        )
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
            page = await browser.new_page()
            await page.route(f"{ORIGIN}/*", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
            await page.goto(f"{ORIGIN}/")

            def sign(nonce: str) -> str:
                signature = nkeys.from_seed(bytearray(viewer.seed.encode())).sign(nonce.encode())
                return base64.urlsafe_b64encode(signature).decode().rstrip("=")

            await page.expose_function("sign", sign)
            await page.evaluate(PAGE, {"url": nats.ws_url, "jwt": viewer.jwt, "subject": live})
            ways: list[Callable[[], Awaitable[Any]]] = [
                lambda: publisher.emit(Draft(type=ChunkType.STDOUT, data=mark())),
                lambda: bus.nc.publish(live, mark().encode()),
                lambda: bus.js.publish_async(subjects.output(PROJECT, execution), mark().encode()),
            ]
            for turn in range(blocks + 1):
                for way, say in enumerate(ways):
                    delays = await block(page, count, say)
                    if turn:
                        found[way].extend(delays)
                        p99[way].append(quantile(delays, 0.99))
            await browser.close()
        await publisher.finish(10)
        publisher.close()
        await bus.close()
    core = "nats-py core publish of 256 B to the same page, kept nowhere"
    kept = "nats-py publish_async of 256 B to the same stream, which republishes it to the same page"
    ours, bare, stream = (thinned(each, 400) for each in found)
    return [
        Row("chunk said to message in Chromium, 200/s", "ms", ours, bare, core, Target("ratio", 1.5)),
        Row("the same, p99 of a block", "ms", p99[0], p99[1], core, Target("ratio", 2.0), f"blocks of {count}"),
        Row("the same, beside a bare publish that is kept", "ms", ours, stream, kept),
        Row("the same, beside a bare publish that is kept, p99 of a block", "ms", p99[0], p99[2], kept),
    ]
