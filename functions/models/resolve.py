"""Resolution of a task's model.

In this order: the task's `model_config`; the operator's `OCF_MODEL`, `OCF_MODEL_ENDPOINT` and `OPENCODE_API_KEY`;
`ANTHROPIC_API_KEY` or `OPENAI_API_KEY`; the offline scripted model.

The operator's keys go to the operator's endpoints only: a task that names its own `api_endpoint` brings its own key or
has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import SecretStr

from ocf.events.command_payloads import ModelConfigData
from ocf.functions.models import catalog
from ocf.functions.models.catalog import ModelFacts
from ocf.functions.models.custom_model_facts import given_facts, operators_facts
from ocf.functions.models.endpoint_check import check_endpoint
from ocf.functions.models.model_target import Kind, ModelTarget
from ocf.functions.settings.settings import Settings

OFFLINE_PROVIDER = "offline"
OFFLINE_MODEL = "scripted"
#: Providers of the operator's own machine; all others are in the catalog.
LOCAL_ENDPOINTS = {"ollama": "http://127.0.0.1:11434/v1"}
DEFAULT_MODELS = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-5-mini"}
_KINDS: dict[catalog.Wire, Kind] = {
    "chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "google",
}  # fmt: skip
#: The version segment that the API formats live under.
_VERSIONS: dict[Kind, str] = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta"}
_HOSTS: dict[str, Kind] = {"api.anthropic.com": "anthropic", "generativelanguage.googleapis.com": "google"}


class NoModel(ValueError):
    """The configuration reaches no model."""


@dataclass(frozen=True)
class ModelSettings:
    """The operator's configuration. `offline_url` is the running scripted model's base URL (`.../v1`)."""

    model: str | None = None
    endpoint: str | None = None
    api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    offline_url: str | None = None
    offline_key: SecretStr | None = None
    allow_hosts: frozenset[str] = field(default=frozenset())
    provider_tools: tuple[str, ...] = ()
    #: Facts of models that the catalog does not have, or other ones than it has: `OCF_MODELS_FILE`.
    facts: tuple[ModelFacts, ...] = ()


def model_settings(settings: Settings) -> ModelSettings:
    """Return the operator's models."""
    return ModelSettings(
        model=settings.model,
        endpoint=settings.model_endpoint,
        api_key=settings.opencode_api_key,
        anthropic_api_key=settings.anthropic_api_key,
        openai_api_key=settings.openai_api_key,
        offline_url=settings.offline_endpoint,
        offline_key=settings.offline_key,
        provider_tools=settings.model_provider_tools,
        facts=operators_facts(settings.models_file),
    )


def uses_offline(settings: ModelSettings) -> bool:
    """Return whether a task without `model_config` gets the offline scripted model."""
    if (settings.model or "").split("/", 1)[0] == OFFLINE_PROVIDER:
        return True
    keys = (settings.api_key, settings.anthropic_api_key, settings.openai_api_key)
    return not (settings.model or settings.endpoint or any(keys))


def resolve(config: ModelConfigData | None, settings: ModelSettings, api_key: SecretStr | None = None) -> ModelTarget:
    """Return the model of a task.

    Args:
        config: the task's `model_config`, if any.
        settings: the operator's.
        api_key: `config.api_key`, opened.

    Raises:
        BadEndpoint: the endpoint's URL is not usable.
        NoModel: no endpoint is known for the provider, or nothing is configured and no offline model runs.
    """
    return replace(_found(config, settings, api_key), provider_tools=settings.provider_tools)


def _found(config: ModelConfigData | None, settings: ModelSettings, api_key: SecretStr | None) -> ModelTarget:
    if config is not None:
        # Pasted and piped keys often end with a line break.
        key = SecretStr(api_key.get_secret_value().strip()) if api_key else None
        return _asked(config, settings, key)
    if uses_offline(settings):
        return _offline(settings)
    if settings.model or settings.endpoint:
        return _operators(settings)
    # OPENCODE_API_KEY alone is read as a key for OpenAI's endpoint: see docs/reference/models.md.
    provider = "anthropic" if settings.anthropic_api_key else "openai"
    return _at_providers_endpoint(provider, DEFAULT_MODELS[provider], settings, _own_key(provider, settings))


def _asked(config: ModelConfigData, settings: ModelSettings, api_key: SecretStr | None) -> ModelTarget:
    if config.provider == OFFLINE_PROVIDER and config.api_endpoint is None:
        target = _offline(settings, config.model)
    elif config.api_endpoint is not None:
        endpoint = check_endpoint(config.api_endpoint, allow_hosts=settings.allow_hosts)
        # Never with the operator's key: the caller could name a host of their own and read it there.
        target = _at(endpoint, config.provider, config.model, api_key, _kind_of(config, endpoint))
    elif settings.endpoint and config.provider == _operator_provider(settings):
        target = _at_operators_endpoint(config.provider, config.model, settings, api_key)
    else:
        key = api_key or _own_key(config.provider, settings)
        target = _at_providers_endpoint(config.provider, config.model, settings, key, config.model_version)
    asked = replace(
        target,
        model_version=config.model_version,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        enabled_tools=None if config.enabled_tools is None else tuple(config.enabled_tools),
        system_prompt=config.system_prompt,
    )
    return _with_facts(asked, settings, config)


def _kind_of(config: ModelConfigData, endpoint: str) -> Kind:
    """Return the API formats of a caller's endpoint: as the task says, else as the provider's own endpoint has them."""
    if config.facts is not None and config.facts.api_format is not None:
        return _KINDS[config.facts.api_format]
    return _kind_at(config.provider, endpoint)


def _kind_at(provider: str, endpoint: str) -> Kind:
    if (kind := _HOSTS.get(urlsplit(endpoint).hostname or "")) is not None:
        return kind
    known = catalog.providers().get(provider)
    return "openai" if known is None or known.base_url is None else _KINDS[catalog.WIRES[known.package]]


def _operator_provider(settings: ModelSettings) -> str:
    if settings.model and "/" in settings.model:
        return settings.model.split("/", 1)[0]
    return "local" if settings.endpoint else "openai"


def _operators(settings: ModelSettings) -> ModelTarget:
    provider = _operator_provider(settings)
    model = settings.model.split("/", 1)[-1] if settings.model else "default"
    if settings.endpoint:
        return _with_facts(_at_operators_endpoint(provider, model, settings, None), settings)
    try:
        return _at_providers_endpoint(provider, model, settings, _own_key(provider, settings))
    except NoModel as error:
        raise NoModel(f"OCF_MODEL: {error}") from None


def _at_operators_endpoint(
    provider: str, model: str, settings: ModelSettings, api_key: SecretStr | None
) -> ModelTarget:
    endpoint = check_endpoint(settings.endpoint or "", name="OCF_MODEL_ENDPOINT", allow_hosts=settings.allow_hosts)
    # OCF_MODEL_ENDPOINT is OpenAI-compatible by contract, whatever the models behind it are called.
    facts = _operators_facts(settings, provider, (model,))
    kind = _HOSTS.get(urlsplit(endpoint).hostname or "", "openai" if facts is None else _KINDS[facts.wire])
    return _at(endpoint, provider, model, api_key or _own_key(provider, settings), kind)


def _at_providers_endpoint(
    provider: str, model: str, settings: ModelSettings, key: SecretStr | None, version: str | None = None
) -> ModelTarget:
    """Return a model at the provider's own endpoint.

    Raises:
        NoModel: the endpoint is not known, or its API format is not served.
    """
    if provider in LOCAL_ENDPOINTS:
        return _with_facts(_at(LOCAL_ENDPOINTS[provider], provider, model, key, "openai"), settings)
    known = catalog.providers().get(provider)
    if known is None:
        raise NoModel(f"no endpoint is known for provider {provider!r}; give model_config.api_endpoint")
    if known.base_url is None:
        raise NoModel(
            f"provider {provider!r} ({known.name}) has an API format of its own, which is not served; put a gateway "
            "such as LiteLLM in front of it and give its URL as api_endpoint: docs/how-to/use-cloud-models.md"
        )
    target = ModelTarget(provider, model, "openai", known.base_url, key, model_version=version)
    facts = catalog.find(provider, target.wire_model) or catalog.find(provider, model)
    package = known.package if facts is None else facts.package
    base_url = known.base_url if facts is None or facts.base_url is None else facts.base_url
    target = replace(target, kind=_KINDS[catalog.WIRES[package]], base_url=base_url.rstrip("/"), package=package)
    return _with_facts(target, settings)


def _own_key(provider: str, settings: ModelSettings) -> SecretStr | None:
    """Return the operator's key for the operator's endpoint of `provider`."""
    if settings.api_key and provider == _operator_provider(settings):
        return settings.api_key
    return {"anthropic": settings.anthropic_api_key, "openai": settings.openai_api_key}.get(provider)


def _offline(settings: ModelSettings, model: str = OFFLINE_MODEL) -> ModelTarget:
    if settings.offline_url is None:
        raise NoModel(
            "no model is configured: set ANTHROPIC_API_KEY, OPENAI_API_KEY, or OCF_MODEL and OCF_MODEL_ENDPOINT, "
            "or run the offline scripted model"
        )
    url, key = settings.offline_url.rstrip("/"), settings.offline_key
    return ModelTarget(OFFLINE_PROVIDER, model, "openai", url, key, offline=True)


def _at(endpoint: str, provider: str, model: str, key: SecretStr | None, kind: Kind) -> ModelTarget:
    """Return a model at an endpoint of the operator or the caller."""
    endpoint = endpoint.rstrip("/")
    path = urlsplit(endpoint).path
    # Anthropic's own clients write `https://api.anthropic.com`; its formats live under /v1, Gemini's under /v1beta.
    if not path or (kind == "anthropic" and not path.endswith("/v1")):
        endpoint += _VERSIONS[kind]
    return ModelTarget(provider, model, kind, endpoint, key)


def _with_facts(target: ModelTarget, settings: ModelSettings, config: ModelConfigData | None = None) -> ModelTarget:
    """Return `target` with the facts of its model: the task's, else the operator's, else the catalog's."""
    if target.offline:
        return target
    names = tuple(dict.fromkeys((target.wire_model, target.model)))
    if config is not None and config.facts is not None:
        facts: ModelFacts | None = given_facts(config.provider, config.model, config.facts)
    else:
        facts = _operators_facts(settings, target.provider, names)
    package = target.package
    if facts is not None:
        package = facts.package if _KINDS[facts.wire] == target.kind else package
    else:
        facts = next(filter(None, (catalog.find(target.provider, name) for name in names)), None)
        # At an endpoint that is not OpenAI's own, "OpenAI-compatible" means chat completions.
        if package is None and facts is not None and facts.wire != "responses" and _KINDS[facts.wire] == target.kind:
            package = facts.package
    return replace(target, facts=facts, prices=None if facts is None else facts.prices, package=package)


def _operators_facts(settings: ModelSettings, provider: str, names: Sequence[str]) -> ModelFacts | None:
    found = {facts.model: facts for facts in settings.facts if facts.provider == provider}
    return next((found[name] for name in names if name in found), None)
