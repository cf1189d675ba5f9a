"""nats-server of the embedded stack: loopback only, with JetStream, WebSocket and JWT authentication."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ocf.functions.runtime.nats_auth import Trust, public_key, server_jwts
from ocf.stack.ports import LOOPBACK

#: An event of 512 KiB with its headers and the API's base64 fits; larger data goes through S3.
MAX_PAYLOAD = 2 * 1024 * 1024


def nats_config(
    *, store: Path, port: int, ws_port: int, trust: Trust, server_name: str, origins: Sequence[str], now: int
) -> str:
    """Return the server's configuration file.

    Args:
        store: directory of JetStream.
        port: port of the NATS protocol.
        ws_port: port of WebSocket.
        trust: seeds; only their public keys and JWTs are written.
        server_name: sent in INFO; distinguishes this server from another on that port.
        origins: pages that browsers may connect from.
        now: Unix seconds, `iat` of the JWTs.
    """
    jwts = server_jwts(trust, now)
    operator = jwts.pop("operator")
    preload = "\n".join(f"  {account}: {jwt}" for account, jwt in jwts.items())
    return f"""\
server_name: {server_name}
host: {LOOPBACK}
port: {port}
max_payload: {MAX_PAYLOAD}
write_deadline: "10s"
jetstream {{
  store_dir: {json.dumps(str(store))}
}}
websocket {{
  host: {LOOPBACK}
  port: {ws_port}
  # Loopback only; a cluster terminates TLS in front of it.
  no_tls: true
  allowed_origins: {json.dumps(list(origins))}
}}
operator: {operator}
system_account: {public_key(trust.system_account)}
resolver: MEMORY
resolver_preload {{
{preload}
}}
"""


def nats_argv(binary: Path, config: Path) -> tuple[str, ...]:
    """Return the command line; logs go to stderr."""
    return (str(binary), "-c", str(config))
