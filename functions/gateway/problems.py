"""Errors as RFC 9457 problem documents; every wrong field is named with the correct form."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ocf.events import errors
from ocf.events.command_payloads import TaskRequest
from ocf.events.fact_payloads import FieldError

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """RFC 9457. `errors` names each wrong field and the correct form."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = []


class Problem(Exception):
    """A call that cannot be answered as requested. `slug` identifies the kind in `type`."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})

    def response(self, path: str) -> Response:
        """Return the problem document of a call to `path`."""
        document: dict[str, Any] = {
            "type": f"urn:ocf:problem:{self.slug}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
        }
        if self.errors:
            document["errors"] = [error.model_dump() for error in self.errors]
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        return Response(body, self.status, {"Cache-Control": "no-store", **self.headers}, MEDIA_TYPE)


#: Maximum of explained fields; a body can have a hundred thousand wrong ones, and each takes time.
_EXPLAINED = 50


def check_count(project: str, what: str, names: Collection[str], name: str | None, most: int) -> None:
    """Refuse a further `what` (plural) of a project that has `most`; `name` of `names` is replaced, None is new.

    Raises:
        Problem: 409, there are too many.
    """
    if len(names) >= most and name not in names:
        raise Problem(409, f"too-many-{what}", f"project {project} has {most} {what}; delete one")


def invalid(found: Sequence[FieldError]) -> Problem:
    """Return a 422 problem with the fields, which the detail repeats in one line."""
    text = "; ".join(f"{error.field}: {error.message}" for error in found)
    return Problem(422, "invalid-request", text[:2_000], errors=found)


def not_found(execution: str) -> Problem:
    """Return a 404 problem for an execution, the same whether it is missing or another caller's."""
    return Problem(404, "unknown-execution", f"no execution {execution} in the projects you may read")


#: Errors of the core by the caller's remedy: status and Retry-After in seconds.
_OCF: tuple[tuple[type[errors.OcfError], int, str, int | None], ...] = (
    (errors.NotYetKnown, 404, "not-found", None),
    (errors.Conflict, 409, "conflict", None),
    (errors.Busy, 429, "busy", 1),
    (errors.Retry, 503, "unavailable", 1),
    (errors.DeadLetter, 422, "invalid-request", None),
    (errors.OcfError, 500, "internal", None),
)


def problem_of(error: errors.OcfError) -> Problem:
    """Return the problem for a failed dependency or a refused event."""
    status, slug, after = next((s, g, a) for kind, s, g, a in _OCF if isinstance(error, kind))
    headers = {"Retry-After": str(after)} if after else {}
    return Problem(status, slug, str(error), headers=headers)


_FRIENDLY: dict[str, str] = {
    "execution_id": "must be a lower-case UUID such as 0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    "session_id": "must be a lower-case UUID such as 0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    "from_execution_id": "must be a lower-case UUID such as 0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    "project_id": "must be 1 to 63 of a-z, 0-9 and -",
    "model_config.provider": "must be a provider's name such as anthropic, openai or local",
    "model_config.model": "must be a model's name without spaces",
    "model_config.api_endpoint": "must be a URL that starts with http:// or https://",
    "workspace.ref": "must be a branch, tag or commit; it has no spaces and does not start with -",
    "workspace.path": "must be an absolute path for `directory`, a relative one for `shared`",
}


#: Errors of whole models, and the field that a caller would look for.
_OF_THE_WHOLE = {"prompt or code is required and must not be blank": "prompt"}


def explain(found: Sequence[Mapping[str, Any]], body: object = None) -> list[FieldError]:
    """Map pydantic's errors to the caller's fields and the correct form. Values are omitted: may be secrets."""
    explained: dict[str, str] = {}
    for number, error in enumerate(found):
        if len(explained) == _EXPLAINED:
            explained["body"] = f"and {len(found) - number} more"
            break
        where, *loc = error["loc"] or ("body",)
        if where not in ("body", "query", "path", "header"):
            loc = [where, *loc]
        field = _path(loc, body) if where not in ("query", "path", "header") else str(loc[0])
        message = _message(error, field)
        # A union reports one error per member; the first is the readable one.
        explained.setdefault(field or _OF_THE_WHOLE.get(message, "body"), message)
    return [FieldError(field=field, message=message) for field, message in explained.items()]


def _path(loc: Sequence[object], body: object) -> str:
    """Return `loc` without pydantic's union tags: only parts of the body, and a missing last part."""
    here, parts = body, list[str]()
    for at, part in enumerate(loc):
        found = _step(here, part)
        if found is not None:
            here = found[0]
        elif at != len(loc) - 1 or not isinstance(here, dict) or part == "[key]":
            continue
        parts.append(str(part))
    return ".".join(parts)


def _step(here: object, part: object) -> tuple[object] | None:
    if isinstance(here, dict) and part in here:
        return (here[part],)
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return (here[part],)
    return None


def _message(error: Mapping[str, Any], field: str) -> str:
    kind, text = str(error["type"]), str(error["msg"]).removeprefix("Value error, ")
    if kind == "string_pattern_mismatch" and field in _FRIENDLY:
        return _FRIENDLY[field]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        known = [spec.alias or name for name, spec in TaskRequest.model_fields.items()]
        near = difflib.get_close_matches(field[:200], [*known, "execution_id", "project_id"], 1)
        return f"is not a field of this call; did you mean {near[0]}?" if near else "is not a field of this call"
    return text[:1].lower() + text[1:]


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return error.response(request.url.path)

    @app.exception_handler(errors.OcfError)
    async def _ocf(request: Request, error: errors.OcfError) -> Response:
        return problem_of(error).response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return Problem(400, "not-json", "the body is not JSON").response(request.url.path)
        return invalid(explain(found, error.body)).response(request.url.path)

    @app.exception_handler(WebSocketRequestValidationError)
    async def _handshake(socket: WebSocket, error: WebSocketRequestValidationError) -> None:
        await socket.send_denial_response(invalid(explain(error.errors())).response(socket.url.path))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = f"there is no {request.url.path} here" if error.status_code == 404 else str(error.detail)
        return Problem(error.status_code, slug, detail, headers=error.headers).response(request.url.path)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, so the server logs it with its traceback.
        return Problem(500, "internal", "the gateway failed; see its log").response(request.url.path)
