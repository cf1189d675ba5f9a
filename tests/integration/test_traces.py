"""One trace per execution, as a real OTLP/HTTP receiver gets it."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ocf.events.lifecycle import State
from tests.support.stack import running_stack, until

pytestmark = pytest.mark.slow

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACE_HTTP = "1bf7651916cd43dd8448eb211c80319d"
CALLER = "b7ad6b7169203331"
PROMPT_SECRET = "the-words-of-the-prompt"
OUTPUT_SECRET = "the-words-of-the-answer"


class Seen:
    """A span, as far as the test looks at it."""

    def __init__(self, service: str, span: object) -> None:
        self.service = service
        self.name: str = span.name  # type: ignore[attr-defined]
        self.trace: str = span.trace_id.hex()  # type: ignore[attr-defined]
        self.id: str = span.span_id.hex()  # type: ignore[attr-defined]
        self.parent: str = span.parent_span_id.hex()  # type: ignore[attr-defined]
        self.attributes = {each.key: each.value for each in span.attributes}  # type: ignore[attr-defined]
        self.text = str(span)

    def __repr__(self) -> str:
        return f"{self.service}: {self.name} {self.id} below {self.parent}"


class Receiver:
    """`POST /v1/traces` of the OTLP specification (HTTP, protobuf); and the model that is asked."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.port = 0

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert request.headers["content-type"] == "application/x-protobuf"
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [Seen(named["service.name"], span) for span in of_scope.spans]
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    async def answer(self, request: Request) -> Response:
        await request.body()
        message = {"role": "assistant", "content": OUTPUT_SECRET}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
                 "prompt_tokens_details": {"cached_tokens": 4}}  # fmt: skip
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({"id": "1", "object": "chat.completion", "choices": choices, "usage": usage})

    def of(self, trace: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in list(self.spans) if span.trace == trace]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver in a thread of its own: it must answer while the test waits."""
    receiver = Receiver()
    routes = [
        Route("/v1/traces", receiver.take, methods=["POST"]),
        Route("/v1/chat/completions", receiver.answer, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        receiver.port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield receiver
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.mark.timeout(180)
async def test_one_trace_from_the_backends_submit_to_the_archive(tmp_path: Path) -> None:
    """A backend's `traceparent` on the submit is the trace of all that follows: each hop of the dispatcher, each
    function, the model call, the tool call, the archive. Every span's parent is in it (the first one's is the
    backend's), and no attribute has a word of what was asked or said. Over the gateway it is the same, with the call
    in between; that it is probed makes no trace."""
    steps = [
        {"model": {"prompt": "hello"}},
        {"shell": {"command": f"echo {OUTPUT_SECRET}", "output": [OUTPUT_SECRET], "exit": 0}},
        {"text": OUTPUT_SECRET},
        {"reasoning": PROMPT_SECRET},
    ]
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "200", "LOG_LEVEL": "debug"}
    with receiving() as receiver:
        # Alone it is enough; it is the whole URL.
        environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"http://127.0.0.1:{receiver.port}/v1/traces"
        environ["OCF_MODEL_ENDPOINT"] = f"http://127.0.0.1:{receiver.port}/v1"
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                execution = await project.submit(
                    steps, traceparent=f"00-{TRACE}-{CALLER}-01", labels={"secret": PROMPT_SECRET}
                )
                record = await project.archived(execution, timeout=90)
                assert record.state is State.COMPLETED, record

                async def all_there() -> bool:
                    names = {span.name for span in receiver.of(TRACE)}
                    return "process dev.ocf.task.completed.v1" in names and "dispatch archive" in names

                await until(all_there, what=f"spans, of {receiver.spans}")
                ports = json.loads((stack.data_dir / "ports.json").read_text())
                async with httpx2.AsyncClient(trust_env=False) as http:
                    measured = (await http.get(f"http://127.0.0.1:{ports['execute']}/metrics")).text
                facts = [event.extensions.get("traceparent", "") for event in await project.client.events(execution)]
                await _submit_over_http(stack.answer["gateway"])
                await until(lambda: _named(receiver, "dispatch submit"), what=f"spans, of {receiver.spans}")
                chunks = project.bus.history("OCF_OUTPUT", f"ocf.out.{project.name}.{execution}")
                said = {message.headers.get("ce-traceparent", "") async for message in chunks}
    spans = receiver.of(TRACE)
    names = [span.name for span in spans]
    for name in (
        "dispatch submit",
        "process dev.ocf.task.submit.v1",
        "dispatch execute",
        "process dev.ocf.task.execute.v1",
        "execute_tool bash",
        "dispatch archive",
        "process dev.ocf.task.completed.v1",
    ):
        assert name in names, names
    (chat,) = (span for span in spans if span.name.startswith("chat "))
    assert chat.attributes["gen_ai.usage.input_tokens"].int_value == 7
    assert chat.attributes["gen_ai.usage.cache_read.input_tokens"].int_value == 4
    known = {span.id for span in spans} | {CALLER}
    assert [span for span in spans if span.parent not in known] == []
    by_name = {span.name: span for span in spans}
    run = by_name["process dev.ocf.task.execute.v1"]
    assert by_name["dispatch submit"].parent == CALLER
    assert by_name["process dev.ocf.task.submit.v1"].parent == by_name["dispatch submit"].id
    assert run.parent == by_name["dispatch execute"].id
    agent, tool = by_name["invoke_agent build"], by_name["execute_tool bash"]
    assert (agent.parent, tool.parent, chat.parent) == (run.id, agent.id, agent.id)
    for span in (agent, tool, chat):
        assert span.attributes["gen_ai.conversation.id"].string_value == execution
    assert tool.attributes["gen_ai.tool.call.id"].string_value
    assert tool.attributes["gen_ai.tool.type"].string_value == "function"
    assert {name for span in spans for name in span.attributes if name.startswith("gen_ai.")} <= _conventions()
    assert "gen_ai_client_token_usage_sum{" in measured
    assert "gen_ai_client_operation_duration_seconds_count{" in measured
    assert {span.service for span in spans} == {"ocf-control", "ocf-execute", "ocf-dispatcher"}
    assert {context.split("-")[1] for context in facts} == {TRACE}
    assert {context.split("-")[1] for context in said} == {TRACE}
    called, dispatched = (
        next(s for s in receiver.of(TRACE_HTTP) if name in s.name) for name in ("POST", "dispatch submit")
    )
    assert (called.parent, dispatched.parent) == (CALLER, called.id)
    assert [span for span in receiver.spans if span.name.endswith(("/ready", "/health", "/metrics"))] == []
    for span in [*spans, *receiver.of(TRACE_HTTP)]:
        assert PROMPT_SECRET not in span.text
        assert OUTPUT_SECRET not in span.text


def _conventions() -> set[str]:
    """The attributes of OpenTelemetry's GenAI conventions."""
    return {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}


async def _submit_over_http(gateway: str) -> None:
    async with httpx2.AsyncClient(base_url=gateway) as client:
        headers = {"traceparent": f"00-{TRACE_HTTP}-{CALLER}-01"}
        assert (await client.post("/tasks/execute", json={"prompt": PROMPT_SECRET}, headers=headers)).is_success
        for probe in ("/ready", "/health", "/metrics"):
            assert (await client.get(probe)).is_success


async def _named(receiver: Receiver, name: str) -> bool:
    names = [span.name for span in receiver.of(TRACE_HTTP)]
    return name in names and any("POST" in each for each in names)
