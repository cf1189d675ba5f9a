"""Forge credentials: sealed at once, listed without secrets, tokens of GitHub Apps narrowed to one repository."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.errors import SealError
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.forges.credentials import Credential, ForgeCredentials
from ocf.functions.forges.http import ForgeRefused
from tests.support.clock import ManualClock
from tests.support.gateway import World

TOKEN = "ghp_0123456789abcdef"
KEYS = Keyring(generate_key())


def pem() -> tuple[str, Any]:
    """A private key, and its public one."""
    key = rsa.generate_private_key(65537, 2048)
    plain = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain).decode()
    return text, key.public_key()


async def test_a_token_is_sealed_and_never_shown() -> None:
    """Neither the bucket nor an answer has it; a second create replaces it."""
    clock = ManualClock()
    bucket = MemoryBucket(clock)
    world = World(keyring=KEYS, credentials=ForgeCredentials(bucket, clock))
    body = {"name": "bot", "forge": "github", "token": TOKEN}
    made = await world.client.post("/credentials", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["api_url"] == "https://api.github.com"
    assert (await world.client.post("/credentials", json=body)).status_code == 200
    listed = await world.client.get("/credentials")
    assert [(one["name"], one["key_id"]) for one in listed.json()["credentials"]] == [("bot", KEYS.current_id)]
    stored = b"".join([entry.value async for entry in bucket.entries()])
    for text in (made.text, listed.text, stored.decode()):
        assert TOKEN not in text
    assert (await world.client.get("/credentials", params={"project_id": "other"})).json() == {"credentials": []}
    assert (await world.client.delete("/credentials/bot")).status_code == 204
    assert (await world.client.delete("/credentials/bot")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"forge": "github"}, "body"),
        ({"forge": "github", "token": TOKEN, "app_id": 1}, "body"),
        ({"forge": "gitlab", "app_id": 1, "installation_id": 2, "private_key": pem()[0]}, "body"),
        ({"forge": "gitea", "token": TOKEN}, "api_url"),
        ({"forge": "gitea", "token": TOKEN, "api_url": "http://git.example/api/v1"}, "api_url"),
        ({"forge": "gitea", "token": TOKEN, "api_url": "https://u:p@git.example/api/v1"}, "api_url"),
        ({"forge": "github", "token": "with a blank"}, "token"),
        ({"forge": "github", "token": TOKEN, "name": "../x"}, "name"),
    ],
)
async def test_a_wrong_credential_is_refused_by_field(body: dict[str, Any], field: str) -> None:
    """And the answer does not repeat it."""
    answer = await World(keyring=KEYS).client.post("/credentials", json={"name": "bot", **body})
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert "ghp_" not in answer.text


async def test_a_gateway_without_a_key_takes_no_credential() -> None:
    """It could only be stored in the clear."""
    answer = await World().client.post("/credentials", json={"name": "bot", "forge": "github", "token": TOKEN})
    assert answer.status_code == 503


async def test_a_credential_opens_for_its_own_forge_and_project_only() -> None:
    """A repository elsewhere, another project or a missing key: nothing is opened."""
    clock, client = ManualClock(), httpx2.AsyncClient()
    bucket = MemoryBucket(clock)
    store = ForgeCredentials(bucket, clock, KEYS)
    made = {"name": "bot", "project_id": "a", "forge": "github", "created_at": clock.now()}
    await store.put(Credential.model_validate({**made, "token": KEYS.seal(TOKEN, "a")}))
    access = await store.access(client, "a", "bot", url="https://github.com/team/app.git")
    assert access.token == TOKEN
    assert TOKEN not in repr(access)
    with pytest.raises(ForgeRefused, match="no credential"):
        await store.access(client, "b", "bot", url="https://github.com/team/app.git")
    with pytest.raises(ForgeRefused, match="evil"):
        await store.access(client, "a", "bot", url="https://evil.example/team/app.git")
    with pytest.raises(SealError):
        await ForgeCredentials(bucket, clock).access(client, "a", "bot")


async def test_the_token_of_an_app_is_minted_for_one_repository() -> None:
    """The JWT is signed by the App's key, short-lived; a clone gets a token that can only read."""
    clock = ManualClock()
    text, public = pem()
    asked: list[dict[str, Any]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        claims = jwt.decode(
            request.headers["authorization"].removeprefix("Bearer "), public, ["RS256"], options={"verify_exp": False}
        )
        assert claims["iss"] == "12"
        assert claims["exp"] - claims["iat"] <= 600
        assert request.url.path == "/app/installations/34/access_tokens"
        asked.append(json.loads(request.content))
        return httpx2.Response(201, stream=_Body(b'{"token":"ghs_minted"}'))

    store = ForgeCredentials(MemoryBucket(clock), clock, KEYS)
    made = {"name": "app", "project_id": "a", "forge": "github", "app_id": 12, "installation_id": 34}
    key = KEYS.seal(text, "a")
    await store.put(Credential.model_validate({**made, "private_key": key, "created_at": clock.now()}))
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as client:
        url = "https://github.com/team/app"
        assert (await store.access(client, "a", "app", url=url)).token == "ghs_minted"
        await store.access(client, "a", "app", url=url, read_only=True)
    assert asked == [{"repositories": ["app"]}, {"repositories": ["app"], "permissions": {"contents": "read"}}]


class _Body(httpx2.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> Any:
        yield self.content
