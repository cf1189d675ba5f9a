"""The model catalog: facts of models, from the pinned OpenCode, the task or the operator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocf.events.command_payloads import ModelConfigData
from ocf.events.output import Usage
from ocf.functions.models import catalog
from ocf.functions.models.catalog import WIRES
from ocf.functions.models.custom_model_facts import BadModelsFile, operators_facts
from ocf.functions.models.prices import Prices, Rates, prices_of
from ocf.functions.models.resolve import ModelSettings, NoModel, resolve

RATES = ("input", "output", "cache_read", "cache_write")
LOCK = Path(__file__).parents[2] / "functions/execute/npm/package-lock.json"


def test_the_catalog_is_that_of_the_pinned_opencode() -> None:
    """The catalog is of the pinned OpenCode; `scripts/model_catalog.py` renews it after a change of the lock."""
    pinned = json.loads(LOCK.read_text())["packages"]["node_modules/opencode-linux-x64"]["version"]
    assert catalog.opencode_version() == pinned


def test_every_provider_is_served_or_refused() -> None:
    """A provider with a base URL has an API format of ours; the others are refused by name."""
    served = [provider for provider in catalog.providers().values() if provider.base_url]
    assert {"anthropic", "openai", "google", "openrouter", "groq", "mistral"} <= {provider.id for provider in served}
    assert all(provider.package in WIRES for provider in served)
    for name in ("amazon-bedrock", "azure", "google-vertex"):
        with pytest.raises(NoModel, match=rf"{name}.*API format of its own.*LiteLLM"):
            resolve(ModelConfigData(provider=name, model="m"), ModelSettings())


def test_facts_of_a_model() -> None:
    """Limits, kinds of input, prices with tiers, variants, API format."""
    sonnet = catalog.find("anthropic", "claude-sonnet-4-5")
    assert sonnet is not None
    assert (sonnet.context, sonnet.output, sonnet.wire) == (1_000_000, 64_000, "messages")
    assert sonnet.input == ("text", "image", "pdf")
    assert sonnet.reasoning
    assert sonnet.prices is not None
    assert (sonnet.prices.input, sonnet.prices.output) == (3, 15)
    assert {facts.wire for facts in catalog.models("google")} == {"gemini"}
    assert {facts.wire for facts in catalog.models("openai")} == {"responses"}


def test_unknown_is_null_and_never_0() -> None:
    """In what `GET /models` shows, at any depth; and every model has a name and a format."""
    for facts in catalog.models():
        shown = facts.described()
        price = shown["price"] or {}
        rates = [rate[name] for rate in (price, *price.get("tiers", ())) for name in RATES if name in rate]
        assert 0 not in [shown["context"], shown["output"], *rates], facts.model
        assert facts.package in WIRES
        assert facts.name


@pytest.mark.parametrize(("provider", "model", "found"), [
    ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5-20250929"),
    ("anthropic", "claude-sonnet-4-5-20991231", "claude-sonnet-4-5"),
    ("gateway", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
    ("openai", "gpt-4o-audio-preview", None), ("openai", "scripted", None), ("unheard-of", "gpt-4o", None),
])  # fmt: skip
def test_a_model_is_found_by_its_whole_name(provider: str, model: str, found: str | None) -> None:
    """A version, and before a gateway's models the maker, are ignored; anything else is another model."""
    facts = catalog.find(provider, model)
    assert (None if facts is None else facts.model) == found


def test_a_call_costs_the_rates_of_its_tier() -> None:
    """By the tokens of its input, cached ones included; an unknown cache price is the price of the input."""
    prices = Prices(1, 10, 0.1, None, ((200_000, Rates(2, 20, 0.2, None)),))
    small = Usage(input_tokens=100_000, cache_read_tokens=100_000, output_tokens=1_000)
    large = Usage(input_tokens=100_000, cache_read_tokens=100_001, output_tokens=1_000)
    assert prices.cost(small) == pytest.approx(0.1 + 0.01 + 0.01)
    assert prices.cost(large) == pytest.approx(0.2 + 0.02 + 0.02)
    assert prices.cost(Usage(cache_write_tokens=1_000_000)) == pytest.approx(2)


def test_a_price_of_0_is_not_known() -> None:
    """models.dev has 0 where nobody said; a model without a price for input and output has none."""
    assert prices_of({"input": 0, "output": 0}) is None
    assert prices_of({}) is None
    found = prices_of({"input": 1, "output": 2, "cache_read": 0})
    assert found == Prices(1, 2, None, None)


FACTS = {"context": 32_000, "output": 4_000, "variants": ["low"], "price": {"input": 1, "output": 2}}


def test_a_task_brings_the_facts_of_its_own_model() -> None:
    """At its own endpoint; they win over the operator's and the catalog's."""
    config = ModelConfigData.model_validate(
        {"provider": "mine", "model": "m", "api_endpoint": "http://gpu:8000/v1", "facts": FACTS}
    )
    target = resolve(config, ModelSettings())
    assert target.facts is not None
    assert (target.facts.context, target.facts.variants, target.prices) == (32_000, ("low",), Prices(1, 2))
    assert (target.kind, target.agent_provider) == ("openai", "ocf-openai")
    entry = json.loads(target.agent_entry())
    assert entry["limit"] == {"context": 32_000, "output": 4_000}


def test_an_own_endpoint_may_have_another_api_format() -> None:
    """`api_format` names it; the version segment is the format's."""
    facts = {**FACTS, "api_format": "gemini"}
    config = ModelConfigData.model_validate(
        {"provider": "mine", "model": "m", "api_endpoint": "http://gw:8000", "facts": facts}
    )
    target = resolve(config, ModelSettings())
    assert (target.kind, target.base_url, target.agent_package) == ("google", "http://gw:8000/v1beta", "@ai-sdk/google")


def test_the_operators_file_has_facts_of_models(tmp_path: Path) -> None:
    """For a model at OCF_MODEL_ENDPOINT; a bad file is one line that names file and field."""
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"models": [{"provider": "local", "model": "qwen", **FACTS}]}))
    settings = ModelSettings(model="local/qwen", endpoint="http://gpu:8000/v1", facts=operators_facts(file))
    target = resolve(None, settings)
    assert target.facts is not None
    assert target.facts.context == 32_000
    file.write_text(json.dumps({"models": [{"provider": "local", "model": "qwen", "context": 0, "output": 1}]}))
    with pytest.raises(BadModelsFile, match=r"OCF_MODELS_FILE .*models\.0\.context"):
        operators_facts(file)
    with pytest.raises(BadModelsFile, match="No such file"):
        operators_facts(tmp_path / "none")


def test_openais_own_models_elsewhere_are_chat_completions() -> None:
    """An endpoint that is "OpenAI-compatible" knows no other format; the facts stay the model's."""
    target = resolve(
        ModelConfigData(provider="openai", model="gpt-5", api_endpoint="https://gw.example.com/v1"), ModelSettings()
    )
    assert (target.agent_package, target.agent_provider) == ("@ai-sdk/openai-compatible", "ocf-openai")
    assert target.facts is not None
    assert target.facts.context == 400_000
    own = resolve(ModelConfigData(provider="openai", model="gpt-5"), ModelSettings())
    assert (own.agent_package, own.agent_provider) == ("@ai-sdk/openai", "openai")
