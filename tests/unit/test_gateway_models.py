"""`GET /models` and `ocf models`: what can be asked for, and what it costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from ocf.cli.app import app
from ocf.functions.gateway.routes.models import ModelList
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.models.custom_model_facts import operators_facts
from tests.support.gateway import SECRET, World

OWN = '{"models": [{"provider": "anthropic", "model": "claude-sonnet-4-5", "context": 9, "output": 1}]}'


async def listed(world: World, **query: str) -> list[dict[str, Any]]:
    answer = await world.client.get("/models", params=query)
    assert answer.status_code == 200
    return list(ModelList.model_validate_json(answer.content).model_dump()["models"])


async def test_the_models_of_all_providers_are_listed() -> None:
    """In the shape of the contract; unknown is null."""
    found = {(one["provider"], one["model"]): one for one in await listed(World())}
    assert len(found) > 500
    sonnet = found["anthropic", "claude-sonnet-4-5"]
    assert sonnet["price"]["unit"] == "USD per million tokens"
    assert (sonnet["context"], sonnet["reasoning"], sonnet["input"]) == (1_000_000, True, ["text", "image", "pdf"])
    assert ("offline", "scripted") not in found


async def test_one_provider_can_be_asked_for() -> None:
    """An unknown one has no models."""
    assert {one["provider"] for one in await listed(World(), provider="google")} == {"google"}
    assert await listed(World(), provider="unheard-of") == []


async def test_the_scripted_model_says_what_it_is() -> None:
    """First in the list where the stack runs it, with nothing known of it."""
    first = (await listed(World(GatewaySettings(offline_model=True))))[0]
    assert first.pop("name") == "offline scripted model"
    assert [first.pop(name) for name in ("provider", "model")] == ["offline", "scripted"]
    assert set(first.values()) == {None}


async def test_the_operators_models_come_before_the_catalogs(tmp_path: Path) -> None:
    """A model of both is listed once, as the operator states it."""
    file = tmp_path / "models.json"
    file.write_text(OWN)
    found = await listed(World(GatewaySettings(models=operators_facts(file))), provider="anthropic")
    assert [one["context"] for one in found if one["model"] == "claude-sonnet-4-5"] == [9]


async def test_the_list_needs_a_token_like_every_call() -> None:
    """Where the gateway has a key."""
    assert (await World(GatewaySettings(jwt_secret=SecretStr(SECRET))).client.get("/models")).status_code == 401


def test_ocf_models_prints_a_list_or_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filtered by a text; what is not known is `-`."""
    known = {
        "provider": "a", "model": "one", "name": "One", "context": 1_000_000, "output": 64_000, "input": ["text"],
        "reasoning": True, "variants": ["low"], "temperature": True, "price": {"input": 3.0, "output": 15.0},
    }  # fmt: skip
    unknown = dict.fromkeys(known) | {"provider": "b", "model": "two", "name": "Two"}

    class Answering:
        async def call(self, method: str, path: str, **query: object) -> dict[str, Any]:
            assert (method, path, query) == ("GET", "/models", {"provider": "x"})
            return {"models": [known, unknown]}

    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(Answering())))
    shown = CliRunner().invoke(app, ["models", "--provider", "x"]).stdout
    assert "context 1M, output 64k, text, $3 in, $15 out, variants low" in shown
    assert "context -, output -, -, price -" in shown
    only = CliRunner().invoke(app, ["models", "TWO", "--provider", "x", "--json"]).stdout
    assert '"model": "two"' in only
    assert '"one"' not in only
