"""Reading what callers send: bodies once, straight from bytes to the model, and what is wrong by field."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ValidationError

from functions.gateway.problems import Problem, explain, invalid

JSON = "application/json"
M = TypeVar("M", bound=BaseModel)

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})")


def documented(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What the OpenAPI document says of a body that `read` reads (`openapi_extra`)."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {JSON: {"schema": schema}}}}


async def read(request: Request, model: type[M]) -> M:
    """The body of `request`. Strict: a number is no text, 1 is not true.

    Raises:
        Problem: 415 not JSON by its media type, 400 not JSON, 422 naming each wrong field.
    """
    # Anything but JSON's media type would let a form on a foreign page call us without a preflight.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != JSON:
        raise Problem(415, "unsupported-media-type", f"send the body as Content-Type: {JSON}")
    raw = await request.body()
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    if any(one["type"] == "int_type" for one in found):
        # 60.0 is an integer in JSON (RFC 8259, section 6), and some writers have no other numbers.
        with suppress(ValidationError):
            return model.model_validate_json(json.dumps(json.loads(raw, parse_float=_number)), strict=True)
    if found[0]["type"] == "json_invalid":
        raise Problem(400, "not-json", str(found[0]["msg"]).replace("Invalid JSON: ", "the body is not JSON: "))
    # Parsed a second time only to name the fields as the caller wrote them.
    raise invalid(explain([{**one, "loc": ("body", *one["loc"])} for one in found], json.loads(raw)))


async def read_optional(request: Request, model: type[M]) -> M | None:
    """The body of `request`, or None when there is none. Raises as `read`."""
    return await read(request, model) if await request.body() else None


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its zone, such as 2026-01-31T12:00:00Z")
    return value


#: A time in a query; pydantic alone would take numbers too.
Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
