"""A stored conversation, before OpenCode imports it."""

from __future__ import annotations

import json

import pytest

from ocf.events import untrusted_json
from ocf.events.untrusted_json import JsonLimit
from ocf.functions.execute.agent.conversation_import import _session
from ocf.functions.execute.sandbox.process import AgentFailed


def test_its_id_is_read_whatever_it_says() -> None:
    """Texts in every script, cut characters included, as they are stored."""
    said = "\ud83d 日本 " * 100
    stored = {"info": {"id": "ses_1", "title": said}, "messages": [{"info": {}, "parts": [{"text": said}]}]}
    assert _session(json.dumps(stored).encode()) == "ses_1"


@pytest.mark.parametrize(
    "stored",
    [b"", b"[]", b"{}", b'{"info": []}', b'{"info": {}}', b"[" * 100_000, b"\xff", b'{"info": {"id": "ses_1"}', b"NaN"],
)
def test_one_that_is_none_ends_the_run_with_its_reason(stored: bytes) -> None:
    """No other exception, whatever is stored."""
    with pytest.raises(AgentFailed, match="conversation is damaged"):
        _session(stored)


def test_one_over_its_limit_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured first."""
    monkeypatch.setattr(untrusted_json, "STORED_CONVERSATION", JsonLimit(bytes=1000, depth=100, values=100))
    with pytest.raises(AgentFailed, match="conversation is damaged"):
        _session(json.dumps({"info": {"id": "ses_1"}, "messages": [0] * 200}).encode())


def test_exported_conversation_can_be_stored_and_imported() -> None:
    """A character of two bytes becomes an escape of six; the messages stand two levels deeper."""
    told, stored = untrusted_json.AGENT_CONVERSATION, untrusted_json.STORED_CONVERSATION
    assert stored.bytes >= 3 * told.bytes
    assert stored.depth >= untrusted_json.AGENT_MESSAGE.depth + 2
    assert stored.values >= told.values + untrusted_json.AGENT_PAGES
    assert untrusted_json.AGENT_MESSAGE.bytes <= told.bytes
