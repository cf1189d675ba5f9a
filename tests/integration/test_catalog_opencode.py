"""The model catalog and the real OpenCode: it holds the same facts, and each of its packages reaches the provider."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events.command_payloads import Limits, ModelConfigData
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.config import configuration
from ocf.functions.execute.agent.opencode_model import AgentModel, model_catalog
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.execute.model_proxy.api_formats import CANNED_DELTAS, CANNED_WORD, canned
from ocf.functions.models import catalog
from ocf.functions.models.catalog import WIRES, ModelFacts
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.offline_model import OfflineModel
from ocf.functions.models.resolve import ModelSettings, resolve
from scripts.model_catalog import CATALOG, PROVIDERS, lines, listed
from tests.support.agents import Heard, server_spec
from tests.support.faulty_model import Exchange, faulty_model, whole
from tests.support.offline import OPENCODE, ROOT, offline_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
]

KEY = SecretStr("sk-real-0123456789")
KEY_HEADERS = {"openai": "authorization", "anthropic": "x-api-key", "google": "x-goog-api-key"}

#: The scripted model sends the arguments of a tool call in pieces without its id, which Mistral never does.
UNCALLED = ("@ai-sdk/mistral",)
#: The scripted model's reasoning is not xAI's: a canned answer stands in.
UNSCRIPTED = "@ai-sdk/xai"
PLAIN = ("hello", "Hello from the model.")


def targets() -> list[ModelTarget]:
    """Every model of the catalog, as a task that asks for it by name gets it."""
    return [
        resolve(ModelConfigData(provider=facts.provider, model=facts.model), ModelSettings())
        for facts in catalog.models()
    ]


def test_the_catalog_is_what_the_pinned_opencode_has() -> None:
    """Generated again, it is the same file."""
    assert "\n".join(lines(OPENCODE)) + "\n" == CATALOG.read_text()


def held(model: dict[str, Any]) -> dict[str, Any]:
    """Facts in the output of `opencode models --verbose`, in the catalog's terms; its 0 means unknown."""
    capabilities, cost, limit = model["capabilities"], model["cost"], model["limit"]
    tiers = [{"above": tier["tier"]["size"], **rates(tier)} for tier in cost.get("tiers", ())]
    prices = {**rates(cost), "tiers": sorted(tiers, key=lambda tier: tier["above"]), "unit": "USD per million tokens"}
    return {
        "provider": model["providerID"],
        "model": model["id"],
        "name": model["name"],
        "context": limit["context"] or None,
        "output": limit["output"] or None,
        "input": [kind for kind, takes in capabilities["input"].items() if takes],
        "reasoning": capabilities["reasoning"],
        "variants": list(model["variants"]),
        "temperature": capabilities["temperature"],
        "price": prices if cost["input"] and cost["output"] else None,
    }


def rates(cost: dict[str, Any]) -> dict[str, Any]:
    cache = cost["cache"]
    named = {
        "input": cost["input"],
        "output": cost["output"],
        "cache_read": cache["read"],
        "cache_write": cache["write"],
    }
    return {name: value or None for name, value in named.items()}


def shown(facts: ModelFacts) -> dict[str, Any]:
    found = facts.described()
    found["input"] = sorted(found["input"] or ())
    return found


def test_the_agent_holds_the_facts_of_the_catalog(tmp_path: Path) -> None:
    """For every model: with OpenCode's own catalog, and with the one that a run gives it. Only URL and token differ."""
    models = tuple(AgentModel.of(target) for target in targets())
    spec = replace(server_spec(tmp_path), models=models)
    file = tmp_path / "models.json"
    file.write_text(json.dumps(model_catalog(models)))
    own = listed(OPENCODE, list(PROVIDERS), None)
    ours = listed(OPENCODE, dict(configuration(spec)), file)
    known = {(facts.provider, facts.model): facts for facts in catalog.models()}
    assert set(ours) == set(known)
    for name, facts in known.items():
        seen = held(ours[name])
        seen["input"] = sorted(seen["input"])
        assert seen == shown(facts), name
        # The URL is in the provider's options; the rest of what it knows is the same to the last value.
        assert {**ours[name], "api": None} == {**own[name], "api": None}, name
        assert ours[name]["api"]["npm"] == own[name]["api"]["npm"] == facts.package, name


def one_of_each_package() -> dict[str, ModelTarget]:
    """A model for each AI SDK package, a reasoning one where there is one."""
    found: dict[str, ModelTarget] = {}
    for target in sorted(targets(), key=lambda target: not (target.facts and target.facts.reasoning)):
        found.setdefault(target.agent_package, target)
    return found


async def test_every_package_of_opencode_reaches_its_provider(tmp_path: Path) -> None:
    """A tool call and an answer through the model proxy, in each API format, against a scripted provider: the provider
    sees its own path, the model's name, the real key and the task's wishes; the tokens are counted."""
    each = one_of_each_package()
    assert set(each) == set(WIRES)
    upstream = Upstream(SystemClock())
    model_proxy = await ModelProxy(upstream, SystemClock()).start()
    model_proxy.assign(next(iter(each.values())), Limits())
    models = tuple(AgentModel.of(target) for target in each.values())
    spec = server_spec(tmp_path, binary=OPENCODE, url=model_proxy.base_url, token=model_proxy.token)
    server = await AgentServer.start(replace(spec, models=models), timeout=90)
    try:
        async with OfflineModel(offline_spec([ROOT / "tests/support/opencode-cases.json"])) as model:
            root = model.base_url.removesuffix("/v1")
            for package, target in each.items():
                if package == UNSCRIPTED:
                    continue
                base_url = f"{root}/v1beta" if target.kind == "google" else model.base_url
                model_proxy.target = replace(target, base_url=base_url, api_key=KEY, max_tokens=777)
                before, seen, heard = model_proxy.usage, len(await model.journal()), Heard()
                agent = Agent(server, PromptSpec(AgentModel.of(target)), SystemClock())
                prompt, answer = PLAIN if package in UNCALLED else ("case-ask", "Went on.")
                assert (await agent.run(prompt, heard.emit)).text == answer, package
                calls = (await model.journal())[seen:]
                paths = {call["path"].partition("?")[0] for call in calls}
                assert paths == {path_of(target)}, package
                # The scripted model keeps no credentials, but the header's name.
                assert all(KEY_HEADERS[target.kind] in call["headers"] for call in calls), package
                assert target.kind != "anthropic" or all("anthropic-beta" in call["headers"] for call in calls)
                assert all("777" in json.dumps(call["body"]) for call in calls), package
                after = model_proxy.usage
                assert after.requests > before.requests, package
                assert after.output_tokens > before.output_tokens, package
                assert model_proxy.failure is None, package
        async with faulty_model(canned_answer) as provider:
            target = replace(each[UNSCRIPTED], base_url=provider.base_url, api_key=KEY)
            model_proxy.target = target
            result = await Agent(server, PromptSpec(AgentModel.of(target)), SystemClock()).run("hello", Heard().emit)
            assert result.text == CANNED_WORD * CANNED_DELTAS
            assert {request.path for request in provider.requests} == {"/v1/responses"}
    finally:
        await server.stop(0.0)
        await model_proxy.close()
        await upstream.close()


async def canned_answer(exchange: Exchange) -> None:
    content_type, body = canned("responses", stream=True)
    await whole(body, content_type)(exchange)


def path_of(target: ModelTarget) -> str:
    match target.facts.wire if target.facts else "":
        case "gemini":
            return f"/v1beta/models/{target.wire_model}:streamGenerateContent"
        case "messages":
            return "/v1/messages"
        case "responses":
            return "/v1/responses"
    return "/v1/chat/completions"
