"""Whom the worker talks to, before it says the password and the prompt."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ocf.functions.execute.agent import server as agent_server
from ocf.functions.execute.sandbox.process import AgentNotReady


def test_a_port_of_ours_is_ours() -> None:
    """The kernel says who listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        agent_server._check_owner(server.getsockname()[1], os.geteuid())


@pytest.mark.parametrize(
    "line",
    [
        "error: Failed to start server. Is port 4096 in use?",
        "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 4096): address already in use",
    ],
)
def test_a_port_that_was_taken_meanwhile_is_told_from_other_failures(line: str) -> None:
    """OpenCode's words, and Python's: the start tries another port."""
    assert agent_server._PORT_TAKEN.search(line)
    assert not agent_server._PORT_TAKEN.search("OSError: [Errno 28] No space left on device")


def test_a_port_where_another_user_listens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody took the port between our look and OpenCode's bind: nothing is sent there."""
    table = tmp_path / "tcp"
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    table.write_text(
        f"{head}   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1234        0 99 1 0\n"
        "   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  7        0 98 1 0\n"
    )
    monkeypatch.setattr(agent_server, "_TCP", table)
    agent_server._check_owner(8080, 1234)
    for port, words in ((8080, r"found \[1234\]"), (8081, "found nobody")):
        with pytest.raises(AgentNotReady, match=words):
            agent_server._check_owner(port, 7)
