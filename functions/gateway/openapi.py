"""OpenAPI 3.1 document of the gateway. `scripts/generate.py` writes it to `schemas/openapi.json`."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from ocf.events.output import Chunk
from ocf.functions.gateway.problems import MEDIA_TYPE, ProblemDocument
from ocf.functions.gateway.request_schemas import (
    Answer,
    AttachSession,
    CancelTask,
    CreateSession,
    ExecuteTask,
    RunAgain,
)
from ocf.functions.gateway.routes.credentials import CreateCredential
from ocf.functions.gateway.routes.hooks import CreateHook
from ocf.functions.rules.rule import Rule
from ocf.functions.rules.schedule_store import Schedule

_ABOUT = """Executions of OpenCode as events. Every command is published as an event; answers report the current state.

The live stream for clients without NATS is `WS /tasks/{execution_id}/stream?from=SEQ` (docs/reference/api.md), which
OpenAPI cannot describe. Errors are RFC 9457 problem documents; `errors` names each wrong field.
"""
_REF = "#/components/schemas/{model}"
_NAMED = re.compile(r'"#/components/schemas/(\w+)"')
_OPEN = ("/health", "/ready", "/metrics")
_WHEN = {
    "400": "not JSON",
    "401": "no token, or not accepted",
    "403": "a project that is not yours",
    "404": "unknown to you",
    "408": "the body did not arrive in time",
    "409": "its state does not allow it",
    "410": "it was deleted",
    "413": "too large",
    "415": "not application/json",
    "421": "not a loopback name, and no authentication",
    "422": "a field is wrong; `errors` names each",
    "429": "too many requests; see Retry-After",
    "503": "a dependency does not answer; see Retry-After",
}
#: Operation ids that do not follow from method, path and function.
_OPERATIONS = {
    "get /dlq": "listDeadLetters",
    "get /health": "getHealth",
    "get /metrics": "getMetrics",
    "get /ready": "getReadiness",
    "get /tasks/{execution_id}/compare/{other}": "compareTasks",
    "get /usage": "getUsage",
    "post /bundles": "importBundle",
    "post /events": "publishEvents",
    "post /events/{project}/{source}": "publishKnativeEvent",
    "post /hooks/{project}/{source}": "receiveWebhook",
    "post /tasks/{execution_id}/replies/{request_id}": "replyToTask",
    "post /tasks/{execution_id}/result": "pushTaskResult",
    "post /tasks/{execution_id}/token": "createViewerToken",
}


def describe(app: FastAPI) -> bytes:
    """Return the document of `app`."""
    return (json.dumps(_document(app), indent=2, ensure_ascii=False) + "\n").encode()


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version="1",
        openapi_version="3.1.0",
        description=_ABOUT,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    sessions_and_tasks = (ExecuteTask, RunAgain, CancelTask, Answer, CreateSession, AttachSession)
    for model in (*sessions_and_tasks, Chunk, CreateCredential, CreateHook, Rule, Schedule, ProblemDocument):
        schema = model.model_json_schema(by_alias=True, ref_template=_REF)
        for name, one in {**schema.pop("$defs", {}), model.__name__: schema}.items():
            if set(schemas.setdefault(name, one).get("properties", {})) != set(one.get("properties", {})):
                raise ValueError(f"two models are called {name}: one component of the document can describe only one")
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="ProblemDocument")}}}}
    document["components"]["responses"] = {
        f"Problem{status}": {"description": description, **problem} for status, description in _WHEN.items()
    }
    routes = (route for route in app.routes if isinstance(route, APIRoute))
    functions = {(method.lower(), route.path): route.name for route in routes for method in route.methods or ()}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _finish(path, operation)
            operation["operationId"] = _operation_id(method, path, functions[method, path])
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    if missing := set(_NAMED.findall(json.dumps(document))) - set(schemas):
        raise ValueError(f"no component describes {', '.join(sorted(missing))}")
    return document


def _finish(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status in _WHEN:
        if status == "422" or status not in responses:
            responses[status] = {"$ref": f"#/components/responses/Problem{status}"}
    operation["responses"] = dict(sorted(responses.items()))
    operation["security"] = [] if path in _OPEN else [{"bearer": []}, {}]


def _operation_id(method: str, path: str, function: str) -> str:
    """Return the name of a call in generated clients: `listTasks`, `getTaskDiff`, `cancelTask`."""
    if named := _OPERATIONS.get(f"{method} {path}"):
        return named
    first, *more = (part for part in path.split("/") if part and not part.startswith("{"))
    one = first.removesuffix("s").capitalize().replace("Dlq", "DeadLetter")
    if method != "get":
        return f"{function}{one}"
    return f"list{one}s" if path == f"/{first}" else f"get{one}{more[-1].capitalize() if more else ''}"
