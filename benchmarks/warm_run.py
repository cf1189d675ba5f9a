"""One warm run, measured from outside and inside: what its viewer sees, the project's own spans, processor time.

The spans are those that the functions export over OpenTelemetry (docs/reference/traces-and-logs.md); `SpanReceiver`
takes them over OTLP/HTTP.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.asyncio.client import connect

from benchmarks.scripted_model import ScriptedModel
from tests.support.processes import parts
from tests.support.stack import Stack

SCRIPTS = {
    "40 words": "WORDS: 40 20",
    "shell call": "SH: sleep 1 // WORDS: 40 20",
    "twenty turns": "SH: true // TIMES: 20 WORDS: 40 20",
}
#: Seconds until the spans of an ended run have been exported, and until its last child processes are gone.
_SETTLE = 1.5


class SpanReceiver:
    """OTLP/HTTP receiver: `spans` has (name, start, end) in seconds since 1970, in the order of arrival."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """Takes the spans of one export."""

            def log_message(self, *_: object) -> None:
                """Write no access log."""

            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                receiver.spans += [
                    (span.name, span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9)
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SpanReceiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Return the variables that make a stack export to this receiver."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}


@dataclass
class Run:
    """One run. Times in seconds after the submit; `lags` from the model's word to the viewer, in order."""

    end: float
    model: float
    first_word: float
    last_word: float
    finished: float
    messages: int
    lags: list[float]
    results: list[float] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def tail(self) -> float:
        """Return the seconds from the last word at the viewer to the end of the stream."""
        return self.end - self.last_word


async def run(
    stack: Stack,
    model: ScriptedModel,
    script: str,
    receiver: SpanReceiver | None = None,
    **task: Any,
) -> Run:
    """Submit one script over the gateway, with further fields of its task, and watch it to its end."""
    name = uuid.uuid4().hex[:8]
    before, started = cpu(stack), time.time()
    execution = await asyncio.to_thread(
        _submit, stack, {"prompt": f"RUN: {name} {SCRIPTS.get(script, script)}", **task}
    )
    words: list[tuple[float, str]] = []
    results: list[float] = []
    url = f"{stack.answer['gateway'].replace('http', 'ws')}/tasks/{execution}/stream?from=1"
    async with asyncio.timeout(300), connect(url, max_size=None) as socket:
        async for message in socket:
            now, chunk = time.time(), json.loads(message)
            if chunk["type"] == "text":
                words.append((now, chunk["data"]))
            elif chunk["type"] == "tool_result":
                results.append(now - started)
            elif chunk["type"] == "end":
                break
    ended = time.time()
    if chunk["data"] != "completed":
        raise RuntimeError(f"the run ended with {chunk['data']}: {stack.log('execute')[-1500:]}")
    after = cpu(stack)
    spans: list[tuple[str, float, float]] = []
    if receiver is not None:
        await asyncio.sleep(_SETTLE)
        spans = [(what, a - started, b - started) for what, a, b in receiver.spans if a >= started]
    return Run(
        end=ended - started,
        model=model.requests[name][0] - started,
        first_word=words[0][0] - started,
        last_word=words[-1][0] - started,
        finished=model.finished[name] - started,
        messages=len(words),
        lags=list(lags(words, model.written[name])),
        results=results,
        spans=spans,
        cpu={key: after[key] - before.get(key, 0.0) for key in after},
    )


def lags(words: list[tuple[float, str]], written: list[float]) -> Iterable[float]:
    """Yield the seconds from the model's writing of each word to its arrival at the viewer."""
    seen = 0
    for at, text in words:
        for _ in range(text.count("word")):
            yield at - written[seen]
            seen += 1


def _submit(stack: Stack, task: dict[str, Any]) -> str:
    request = urllib.request.Request(  # noqa: S310 - a loopback address of ours
        f"{stack.answer['gateway']}/tasks/execute",
        json.dumps(task).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(json.load(answer)["execution_id"])


def cpu(stack: Stack) -> dict[str, float]:
    """Return the processor seconds so far of each part of the stack; `opencode` has every agent's tree.

    An ended process counts with its parent, which has waited for it: for an agent that is its supervisor, after that
    the worker, after that the parent of workers. So what the children of these have used counts as the agent's; the
    little that an ended worker has used itself is in there, too.
    """
    found = {}
    with suppress(psutil.NoSuchProcess):
        for name, process in parts(psutil.Process(stack.process.pid)).items():
            times = process.cpu_times()
            found[name] = times.user + times.system
    agents = 0.0
    with suppress(psutil.NoSuchProcess, KeyError):
        ended = parts(psutil.Process(stack.process.pid))["execute"].cpu_times()
        agents += ended.children_user + ended.children_system
    for worker in stack.workers():
        with suppress(psutil.NoSuchProcess):
            times = worker.cpu_times()
            found["execute"] = found.get("execute", 0.0) + times.user + times.system
            agents += times.children_user + times.children_system
            for child in worker.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    own = child.cpu_times()
                    agents += own.user + own.system + own.children_user + own.children_system
    found["opencode"] = agents
    return found
