"""GitHub's published webhook payloads, signed as GitHub signs them by GitHub's own library."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.support import npm
from tests.support.offline import node

_SIGN = """
import { sign } from "@octokit/webhooks-methods";
import { readFileSync } from "node:fs";
process.stdout.write(await sign(process.argv[1], readFileSync(0, "utf8")));
"""


def example(name: str, action: str) -> dict[str, Any]:
    """The first published payload of that event with that action."""
    events = json.loads((npm.modules("webhooks") / "@octokit/webhooks-examples/api.github.com/index.json").read_text())
    found = next(event for event in events if event["name"] == name)["examples"]
    return next(payload for payload in found if payload.get("action") == action)


def signed(body: bytes, secret: str) -> str:
    """The value of `X-Hub-Signature-256`."""
    folder = npm.modules("webhooks").parent
    command = [str(node()), "--input-type=module", "-e", _SIGN, "--", secret]  # a secret may begin with a dash
    done = subprocess.run(command, input=body, cwd=folder, capture_output=True, check=True)
    return done.stdout.decode()


def github(name: str, payload: dict[str, Any], secret: str, delivery: str = "1") -> tuple[dict[str, str], bytes]:
    """Headers and body of a delivery."""
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": name,
        "X-Hub-Signature-256": signed(body, secret),
    }
    return headers, body
