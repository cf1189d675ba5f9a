"""NATS JWTs: what is in them, and what is refused before anything is signed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from ocf.events.adapters.nats.inbox_prefix import inbox_of
from ocf.events.errors import InvalidEvent
from ocf.functions.runtime.nats_auth import (
    MAX_CONNECT_BYTES,
    ROLES,
    Credentials,
    InvalidViewer,
    Trust,
    mint_user,
    mint_viewer,
    public_key,
    server_jwts,
)

EXECUTION = "6f1f0c58-9d3a-4a5e-8f0b-0c1d2e3f4a5b"
TRUST = Trust.generate()
ACCOUNT = public_key(TRUST.account)


def claims(jwt: str) -> dict:
    body = jwt.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def viewer(project: str = "default", execution: str = EXECUTION, ttl: int = 60) -> Credentials:
    return mint_viewer(TRUST.viewer_signing, ACCOUNT, project, execution, ttl=ttl, now=1_000)


def test_every_jwt_is_signed_by_the_key_it_names() -> None:
    """The signature of each JWT verifies with the public key in its `iss`."""
    jwts = [*server_jwts(TRUST, 1).values(), viewer().jwt]
    for jwt in jwts:
        signed, signature = jwt.rsplit(".", 1)
        issuer = claims(jwt)["iss"]
        # An nkey is a prefix byte, 32 bytes of key and a checksum, in base 32.
        raw = base64.b32decode(issuer + "=" * (-len(issuer) % 8))[1:33]
        padded = signature + "=" * (-len(signature) % 4)
        VerifyKey(raw).verify(signed.encode(), base64.urlsafe_b64decode(padded))


def test_a_viewer_carries_its_expiry_and_no_permissions_of_its_own() -> None:
    """A viewer's JWT has an expiry and the two tags; what it may do comes from the account's template."""
    found = claims(viewer(ttl=60).jwt)
    assert found["exp"] == 1_060
    assert found["nats"]["tags"] == ["project:default", f"execution:{EXECUTION}"]
    assert not {"pub", "sub", "subs", "allowed_connection_types"} & set(found["nats"])


@pytest.mark.parametrize(("project", "execution"), [("a.b", EXECUTION), ("*", EXECUTION), ("a", ">"), ("a", "x")])
def test_a_viewer_of_more_than_one_execution_is_refused(project: str, execution: str) -> None:
    """Wildcards and dots cannot get into a viewer's subject."""
    with pytest.raises(InvalidEvent):
        viewer(project, execution)


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_viewer_for_ever_is_refused(ttl: int) -> None:
    """No positive lifetime, no viewer."""
    with pytest.raises(InvalidViewer, match="ttl"):
        viewer(ttl=ttl)


def test_every_connect_fits_the_servers_default_line() -> None:
    """No role's JWT is so large that a default server drops its CONNECT (the rest of the line is below 600 bytes)."""
    longest = "p" * 63
    sizes = {name: len(mint_user(TRUST, role, 1, project=longest).jwt) for name, role in ROLES.items()}
    sizes["viewer"] = len(viewer(longest).jwt)
    assert max(sizes.values()) < MAX_CONNECT_BYTES - 600, sizes


def test_minting_a_viewer_takes_well_below_ten_milliseconds() -> None:
    """Tokens are minted inside the gateway's event loop."""
    started = time.process_time()
    for _ in range(20):
        viewer()
    assert (time.process_time() - started) / 20 < 0.01


def test_a_backend_of_one_project_has_no_way_to_write_or_to_hear_answers() -> None:
    """An empty list of what is allowed would allow everything: all is denied. No inbox of others."""
    found = claims(mint_user(TRUST, ROLES["project-backend"], 1, project="mine").jwt)["nats"]
    assert found["pub"] == {"deny": [">"]}
    assert all(subject.split(".")[2] == "mine" for subject in found["sub"]["allow"])


def test_credentials_say_which_inbox_is_theirs(tmp_path: Path) -> None:
    """Functions' answers come in where no other role may listen; everybody else's in NATS's own."""
    creds = tmp_path / "x.creds"
    for role, inbox in (("functions", "_INBOX_FUNCTIONS"), ("backend", "_INBOX")):
        creds.write_text(mint_user(TRUST, ROLES[role], 1).file())
        assert inbox_of(creds) == inbox


def test_the_secrets_of_an_installation_have_a_backend_for_each_project_named(tmp_path: Path) -> None:
    """`knative_secrets.py --backend PROJECT`: credentials of that project's role; what is no project is refused."""
    script = Path(__file__).parents[2] / "scripts/knative_secrets.py"
    argv = [sys.executable, str(script), "--keys", str(tmp_path / "keys"), "--backend", "mine", "--only"]
    said = subprocess.run([*argv, "ocf-backend-mine/backend.creds"], capture_output=True, text=True, check=True).stdout
    assert claims(said.splitlines()[1])["name"] == "project-backend"
    wrong = [*argv, "ocf-backend-*/backend.creds", "--backend", "*"]
    assert subprocess.run(wrong, capture_output=True, text=True, check=False).returncode != 0
