"""The generated parts of the Python client: types of the REST API, and the blocking twin of the asynchronous client.

Sources: `schemas/openapi.json` and the class `AsyncGateway` of `events/client/tasks.py`.
"""

from __future__ import annotations

import ast
import keyword
import subprocess
import sys
from pathlib import Path
from typing import Any

_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def pages(root: Path, document: dict[str, Any]) -> dict[str, str]:
    """Return the generated files by name."""
    source = (root / "events/client/tasks.py").read_text()
    return {
        "events/client/api_types.py": _formatted(_types(document["components"]["schemas"])),
        "events/client/blocking.py": _formatted(_blocking(source)),
    }


def _formatted(text: str) -> str:
    ruff = [str(Path(sys.executable).with_name("ruff")), "format", "--line-length", "120", "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


def _types(schemas: dict[str, Any]) -> str:
    """Return a TypedDict or an alias for each component."""
    head = (
        '"""Types of the REST API. Generated from schemas/openapi.json by `make generate`."""\n\n'
        "from __future__ import annotations\n\nfrom typing import Any, Literal, NotRequired, TypedDict"
    )
    parts = [_component(name, schema) for name, schema in schemas.items()]
    # Aliases are evaluated at once, classes are not.
    return "\n\n".join([head, *sorted(parts, key=lambda part: part.startswith("class "))]) + "\n"


def _component(name: str, schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return f"{name} = {_type(schema)}"
    required = schema.get("required", ())
    fields = {
        field: of if field in required else f"NotRequired[{of}]"
        for field, of in ((field, _type(one)) for field, one in schema["properties"].items())
    }
    if any(keyword.iskeyword(field) for field in fields):
        return f"{name} = TypedDict({name!r}, {{{', '.join(f'{field!r}: {of!r}' for field, of in fields.items())}}})"
    about = " ".join(str(schema.get("description", f"`{name}` of the REST API.")).split()).replace("\\", "\\\\")
    lines = [f"class {name}(TypedDict):", f'    """{about}"""', ""]
    return "\n".join([*lines, *(f"    {field}: {of}" for field, of in fields.items())])


def _type(schema: dict[str, Any]) -> str:
    """Return the annotation of a schema; `Any` for one that limits no type."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[union]))
    if "enum" in schema or "const" in schema:
        return f"Literal[{', '.join(repr(one) for one in schema.get('enum', [schema.get('const')]))}]"
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_type(schema.get('items', {}))}]"
    if kind == "object":
        values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        given = [one for one in values if isinstance(one, dict)]
        return f"dict[str, {_type(given[0]) if given else 'Any'}]"
    return _SCALARS.get(str(kind), "Any")


def _blocking(source: str) -> str:
    """Return the class `Gateway`: each public method of `AsyncGateway`, run to its end."""
    tree = ast.parse(source)
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AsyncGateway")
    methods = [node for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    made = "\n\n".join(_method(node) for node in methods if not node.name.startswith("_"))
    imports = next(node for node in tree.body if isinstance(node, ast.ImportFrom) and "api_types" in str(node.module))
    return f'''"""A gateway's client without asyncio. Generated from events/client/tasks.py by `make generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

{ast.unparse(imports)}
from ocf.events.client.loop_thread import LoopThread
from ocf.events.client.tasks import Download


class Gateway(LoopThread):
    """`AsyncGateway` for code without asyncio: `with Gateway(url) as gateway`. Threads may share one."""

{made}
'''


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = node.args
    given = [argument.arg for argument in arguments.args[1:]]
    given += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    given += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    call = f"self._gateway.{node.name}({', '.join(given)})"
    answer = ast.unparse(node.returns) if node.returns else "None"
    body = f"return self._run({call})"
    if isinstance(node, ast.FunctionDef):
        answer = f"Iterator[{answer.removeprefix('AsyncGenerator[').split(',')[0].rstrip(']')}]"
        body = f"return self._iterate({call})"
    about = (ast.get_docstring(node, clean=False) or "").rstrip()
    about += "\n        " if "\n" in about else ""
    return f'    def {node.name}({ast.unparse(arguments)}) -> {answer}:\n        """{about}"""\n        {body}'
