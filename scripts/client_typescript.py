"""The generated parts of the TypeScript client: types of the REST API and of the events.

Sources: `schemas/openapi.json` and the JSON Schema of each event type.
"""

from __future__ import annotations

import json
import re
from typing import Any

_SCALARS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*")
_FOLDER = "console/src/client"


def api_types(document: dict[str, Any]) -> dict[str, str]:
    """Return the module with a type for each component of the OpenAPI document."""
    head = "/** Types of the REST API. Generated from schemas/openapi.json by `make generate`. */"
    return {f"{_FOLDER}/api-types.ts": _module(head, document["components"]["schemas"])}


def event_types(schemas: dict[str, str]) -> dict[str, str]:
    """Return the module with a type for the data of each event, and the schema's own definitions.

    Args:
        schemas: JSON Schemas by path, `schemas/<event type>.json`.

    Raises:
        ValueError: Two schemas define one name differently.
    """
    found: dict[str, Any] = {}
    names = {}
    for path, text in schemas.items():
        type_ = path.removeprefix("schemas/").removesuffix(".json")
        schema = json.loads(text)
        own = "".join(word.capitalize() for word in re.split(r"[._]", type_.removeprefix("dev.ocf.")[:-3])) + "Data"
        for name, one in {**schema.pop("$defs", {}), own: schema}.items():
            if found.setdefault(name, one) != one:
                raise ValueError(f"two events define {name} differently")
        names[type_] = own
    head = "/** Types of the events' data. Generated from schemas/*.json by `make generate`. */"
    table = "".join(f"  readonly {json.dumps(type_)}: {own};\n" for type_, own in names.items())
    catalogue = f"/** The data of each event type. */\nexport interface EventData {{\n{table}}}\n"
    return {f"{_FOLDER}/event-data-types.ts": _module(head, found) + "\n" + catalogue}


def _module(head: str, schemas: dict[str, Any]) -> str:
    return "\n\n".join([head, *(_declared(name, schema) for name, schema in schemas.items())]) + "\n"


def _declared(name: str, schema: dict[str, Any]) -> str:
    about = _comment(schema.get("description", ""), "")
    if "properties" not in schema:
        return f"{about}export type {name} = {_type(schema)};"
    required = schema.get("required", ())
    lines = []
    for field, one in schema["properties"].items():
        key = field if _IDENTIFIER.fullmatch(field) else json.dumps(field)
        optional = "" if field in required else "?"
        lines.append(f"{_comment(one.get('description', ''), '  ')}  readonly {key}{optional}: {_type(one)};\n")
    return f"{about}export interface {name} {{\n{''.join(lines)}}}"


def _comment(text: str, indent: str) -> str:
    words = " ".join(text.split()).replace("*/", "* /")
    return f"{indent}/** {words} */\n" if words else ""


def _type(schema: Any) -> str:  # noqa: ANN401 - JSON
    """Return the type of a schema; `unknown` for one that limits no type."""
    if not isinstance(schema, dict):
        return "unknown"
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[union]))
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(one) for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": one}) for one in kind)
    if kind == "array":
        items = _type(schema.get("items", {}))
        return f"readonly ({items})[]" if " " in items else f"readonly {items}[]"
    if kind == "object":
        values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        given = [one for one in values if isinstance(one, dict)]
        return f"Readonly<Record<string, {_type(given[0]) if given else 'unknown'}>>"
    return _SCALARS.get(str(kind), "unknown")
