"""Cost of the model proxy: time per request and per chunk, memory per execution.

Run: python -m benchmarks.model_proxy_latency

One process holds provider, model proxy, a bare byte relay and client, so the figures are upper bounds. Direct, through
the relay and through the model proxy take turns, request by request; medians and 95th percentiles of the same run stand
side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from typing import Any

import httpx2
import psutil
from pydantic import SecretStr

from ocf.events.command_payloads import Limits
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.models.model_target import ModelTarget

CHUNKS = 40
GAP = 0.002
PROMPT = "x" * 200_000
BODY: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
KEY = SecretStr("sk-bench-0123456789abcdef0123456789abcdef")


async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request with chunks that carry the time they were sent."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(CHUNKS):
                finish = "stop" if number == CHUNKS - 1 else None
                delta = {"content": f"t={time.perf_counter_ns()};"}
                event = {"id": "c", "object": "chat.completion.chunk", "model": "m",
                         "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip
                piece = f"data: {json.dumps(event)}\n\n".encode()
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
                await asyncio.sleep(GAP)
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def relay(port: int) -> asyncio.Server:
    """Serve a relay that copies bytes to and from `port`: the least that anything in between can cost."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def one(client: httpx2.AsyncClient, firsts: list[float], delays: list[float]) -> None:
    """One request: milliseconds to the first chunk, and from each chunk's sending to its arrival."""
    start = time.perf_counter_ns()
    seen = 0
    async with client.stream("POST", "/chat/completions", json=BODY) as response:
        async for line in response.aiter_lines():
            if "t=" in line:
                now = time.perf_counter_ns()
                sent = int(line.split("t=")[1].split(";")[0])
                if seen:
                    delays.append((now - sent) / 1e6)
                else:
                    firsts.append((now - start) / 1e6)
                seen += 1
    assert seen == CHUNKS, f"{seen} chunks"


def row(name: str, other: str, without: list[float], through: list[float]) -> dict[str, Any]:
    """Median and 95th percentile of both, in milliseconds, and what the model proxy adds to the median."""

    def at(values: list[float], share: float) -> float:
        return round(sorted(values)[int(share * (len(values) - 1))], 3)

    found: dict[str, Any] = {"figure": name, "n": len(through), "other": other}
    for share in (0.5, 0.95):
        mine, theirs = at(through, share), at(without, share)
        percentile = f"p{share * 100:.0f}"
        found |= {f"direct_{percentile}_ms": theirs, f"proxy_{percentile}_ms": mine}
        found[f"ratio_{percentile}"] = round(mine / theirs, 2)
    return found


async def memory(upstream: Upstream, base_url: str, count: int) -> dict[str, Any]:
    """Resident memory per proxy that has served a request, in MiB."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    model_proxies, clients = [], []
    for _ in range(count):
        model_proxy = await ModelProxy(upstream, SystemClock()).start()
        model_proxy.assign(ModelTarget("local", "m", "openai", base_url, KEY), Limits())
        client = httpx2.AsyncClient(
            base_url=model_proxy.base_url,
            headers={"authorization": f"Bearer {model_proxy.token}"},
            verify=False,
        )
        await one(client, [], [])
        model_proxies.append(model_proxy)
        clients.append(client)
    gc.collect()
    used = (process.memory_info().rss - before) / count / 1024**2
    for client, model_proxy in zip(clients, model_proxies, strict=True):
        await client.aclose()
        await model_proxy.close()
    return {"figure": "memory per proxy, its client included", "n": count, "mib": round(used, 3)}


async def main(requests: int, model_proxies: int) -> list[dict[str, Any]]:
    """Every row."""
    server = await asyncio.start_server(provider, "127.0.0.1", 0, limit=2**20)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    upstream = Upstream(SystemClock())
    model_proxy = await ModelProxy(upstream, SystemClock()).start()
    model_proxy.assign(ModelTarget("local", "m", "openai", base_url, KEY), Limits(max_total_tokens=10**9))
    firsts: tuple[list[float], ...] = ([], [], [])
    chunks: tuple[list[float], ...] = ([], [], [])
    headers = {"authorization": f"Bearer {model_proxy.token}"}
    bare = await relay(server.sockets[0].getsockname()[1])
    relayed = f"http://127.0.0.1:{bare.sockets[0].getsockname()[1]}/v1"
    async with (
        httpx2.AsyncClient(base_url=base_url) as direct,
        httpx2.AsyncClient(base_url=relayed) as between,
        httpx2.AsyncClient(base_url=model_proxy.base_url, headers=headers) as through,
    ):
        for number in range(requests + 3):
            # The first three warm up every way.
            kept = number >= 3
            for way, client in enumerate((direct, between, through)):
                await one(client, firsts[way] if kept else [], chunks[way] if kept else [])
    bare.close()
    rows = [
        row("request to first chunk, 200 kB prompt", "straight to the provider", firsts[0], firsts[2]),
        row("chunk sent to chunk read", "a bare byte relay", chunks[1], chunks[2]),
        await memory(upstream, base_url, model_proxies),
    ]
    await model_proxy.close()
    await upstream.close()
    server.close()
    # The provider's tasks end when they have read the end of their connections.
    await asyncio.sleep(0.05)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--proxies", type=int, default=50)
    arguments = parser.parse_args()
    for line in asyncio.run(main(arguments.requests, arguments.proxies)):
        print(json.dumps(line))
