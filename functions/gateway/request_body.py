"""Request bodies: read once, straight from bytes to the model, with errors by field.

A body is measured before it is parsed (`ocf.events.untrusted_json`). It is parsed on the event loop: the parsers hold
the interpreter's lock, so a thread would gain nothing, and a body within the limits takes tenths of a second.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ocf.events.fact_payloads import FieldError
from ocf.events.untrusted_json import REQUEST, InvalidJson, OverLimit, check_json, parse_json
from ocf.functions.gateway.problems import Problem, explain, invalid

JSON = "application/json"
M = TypeVar("M", bound=BaseModel)

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})")


class StrictRoute(APIRoute):
    """A route that refuses unknown query parameters: a filter with a typo would list everything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the framework's handler, preceded by the check of the query."""
        handle, known = super().get_route_handler(), frozenset(_parameters(self.dependant))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                check_query(request.query_params, known)
            return await handle(request)

        return strict


def check_query(query: QueryParams, known: frozenset[str]) -> None:
    """Raise a 422 Problem when the query has a parameter that is not in `known`."""
    wrong = [name for name in query if name not in known]
    if wrong:
        allowed = "one of " + ", ".join(sorted(known)) if known else "none: this call takes no query parameters"
        raise invalid([FieldError(field=f"query.{name[:100]}", message=f"must be {allowed}") for name in wrong[:20]])


def _parameters(dependant: Dependant) -> Iterator[str]:
    for one in (dependant, *dependant.dependencies):
        yield from (parameter.alias for parameter in one.query_params)
        if one is not dependant:
            yield from _parameters(one)


def documented(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return the OpenAPI description of a body that `read` reads (`openapi_extra`)."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {JSON: {"schema": schema}}}}


async def read(request: Request, model: type[M]) -> M:
    """Return the body of `request`. Strict: a number is not text, 1 is not true.

    Raises:
        Problem: 415 not JSON by its media type, 400 not JSON, 422 naming each wrong field, 408 not sent in time, 413,
            429 or 503 too large.
    """
    # Any other media type would let a form on a foreign page call without a preflight.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != JSON:
        raise Problem(415, "unsupported-media-type", f"send the body as Content-Type: {JSON}")
    raw = await read_bytes(request)
    try:
        check_json(raw, REQUEST, "body")
        return _parsed(raw, model)
    except OverLimit as error:
        raise invalid([FieldError(field="body", message=str(error).removeprefix("body: "))]) from None


async def read_optional(request: Request, model: type[M]) -> M | None:
    """Return the body of `request`, or None when there is none. Raises as `read`."""
    return await read(request, model) if await read_bytes(request) else None


async def read_bytes(request: Request) -> bytes:
    """Return the whole body, within the caller's share of memory and the time for it."""
    try:
        async with asyncio.timeout(request.app.state.gateway.settings.body_seconds):
            return await request.body()
    except TimeoutError:
        raise Problem(408, "request-timeout", "the body did not arrive in time") from None
    except ClientDisconnect:
        raise Problem(400, "not-json", "the body ends in the middle") from None


def _parsed(raw: bytes, model: type[M]) -> M:
    try:
        parsed = model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    else:
        if b"NaN" in raw or b"Infinity" in raw:
            # Not JSON (RFC 8259), so other readers would refuse it; it may also stand within a text.
            _json(raw)
        return parsed
    if any(one["type"] == "int_type" for one in found):
        # 60.0 is an integer in JSON (RFC 8259, section 6), and some writers have no other numbers.
        with suppress(ValidationError):
            return model.model_validate_json(json.dumps(json.loads(raw, parse_float=_number)), strict=True)
    if found[0]["type"] == "json_invalid":
        raise Problem(400, "not-json", str(found[0]["msg"]).replace("Invalid JSON: ", "the body is not JSON: "))
    # Parsed a second time only to name the fields as the caller wrote them.
    raise invalid(explain([{**one, "loc": ("body", *one["loc"])} for one in found], json.loads(raw)))


def _json(raw: bytes) -> None:
    try:
        parse_json(raw, REQUEST, "the body")
    except InvalidJson as error:
        raise Problem(400, "not-json", str(error)) from None


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its zone, such as 2026-01-31T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time that exists in UTC, from the year 1 to 9999") from None


#: A time in a query; pydantic alone would accept numbers too.
Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc)]
