"""The value in an agent's last message."""

from __future__ import annotations

import time

import pytest

from ocf.functions.execute.inputs.output_check import json_in


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
