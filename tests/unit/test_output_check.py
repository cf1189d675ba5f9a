"""The value in an agent's last message."""

from __future__ import annotations

import asyncio
import time

import pytest

from ocf.functions.execute.inputs.output_check import check_output, json_in


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' {"a": 1} ', {"a": 1}),
        ('Done.\n```json\n{"a": 1}\n```\nThat is all.', {"a": 1}),
        ("```\n[1]\n```\nand\n``` json \r\n[\n2]\n```  ", [2]),
        ("```python\nprint()\n```\n```json\n[3]\n```", [3]),
        ("```python\nprint()\n```json\n[4]\n```", [4]),
        ("```json\n[5]\n```\n```python\nprint()\n```\n", [5]),
        ("```json\n[6]", None),
        ("```\n```", None),
        ("no value", None),
    ],
)
def test_the_message_or_its_last_block_is_the_value(text: str, value: object) -> None:
    """Blocks of other languages, and blocks that do not end, are none."""
    assert json_in(text) == value


def test_a_long_message_takes_no_long_time() -> None:
    """A model may repeat the begin of a block for ever; the event loop has other work."""
    for text in ("```json\n", "```\n", "\n```", "`", "```json\n{\n"):
        began = time.process_time()
        assert json_in(text * (1_000_000 // len(text))) is None
        assert time.process_time() - began < 2.0


async def test_a_reference_to_another_document_is_not_fetched() -> None:
    """A part in an older draft moves the base of references by `id`. The check has no sandbox, so it asks nobody."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    part = {"id": f"http://127.0.0.1:{port}/data", "allOf": [{"$ref": "#/secret"}]}
    schema = {"$ref": "#/h", "h": {"$schema": "http://json-schema.org/draft-04/schema#", "allOf": [part]}}
    async with server:
        _, fault = await check_output({}, schema)
    assert asked == []
    assert fault is not None
    assert "$ref leads nowhere" in fault
