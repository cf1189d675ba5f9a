"""Resolution of a task's model.

In this order: the task's `model_config`; the operator's `OCF_MODEL`, `OCF_MODEL_ENDPOINT` and `OPENCODE_API_KEY`;
`ANTHROPIC_API_KEY` or `OPENAI_API_KEY`; the offline scripted model.

The operator's keys go to the operator's endpoints only: a task that names its own `api_endpoint` brings its own key or
has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from ocf.events.commands import ModelConfigData
from ocf.functions.models.endpoint_check import check_endpoint
from ocf.functions.models.model_target import Kind, ModelTarget
from ocf.functions.models.prices import prices_for

OFFLINE_PROVIDER = "offline"
OFFLINE_MODEL = "scripted"
DEFAULT_ENDPOINTS: dict[str, str] = {
    "anthropic": "https://api.anthropic.com/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "xai": "https://api.x.ai/v1",
    "ollama": "http://127.0.0.1:11434/v1",
}
DEFAULT_MODELS = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-5-mini"}


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
    allow_hosts: frozenset[str] = field(default=frozenset())
    provider_tools: tuple[str, ...] = ()


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
    return _target(provider, DEFAULT_MODELS[provider], DEFAULT_ENDPOINTS[provider], _own_key(provider, settings))


def _asked(config: ModelConfigData, settings: ModelSettings, api_key: SecretStr | None) -> ModelTarget:
    if config.provider == OFFLINE_PROVIDER and config.api_endpoint is None:
        target = _offline(settings, config.model)
    elif config.api_endpoint is not None:
        endpoint = check_endpoint(config.api_endpoint, allow_hosts=settings.allow_hosts)
        # Never with the operator's key: the caller could name a host of their own and read it there.
        target = _target(config.provider, config.model, endpoint, api_key)
    elif settings.endpoint and config.provider == _operator_provider(settings):
        target = _at_operators_endpoint(config.provider, config.model, settings, api_key)
    elif config.provider in DEFAULT_ENDPOINTS:
        key = api_key or _own_key(config.provider, settings)
        target = _target(config.provider, config.model, DEFAULT_ENDPOINTS[config.provider], key)
    else:
        raise NoModel(f"model_config.api_endpoint is required: no endpoint is known for provider {config.provider!r}")
    return _priced(
        target,
        {
            "model_version": config.model_version,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "enabled_tools": None if config.enabled_tools is None else tuple(config.enabled_tools),
            "system_prompt": config.system_prompt,
        },
    )


def _operator_provider(settings: ModelSettings) -> str:
    if settings.model and "/" in settings.model:
        return settings.model.split("/", 1)[0]
    return "local" if settings.endpoint else "openai"


def _operators(settings: ModelSettings) -> ModelTarget:
    provider = _operator_provider(settings)
    model = settings.model.split("/", 1)[-1] if settings.model else "default"
    if settings.endpoint:
        return _at_operators_endpoint(provider, model, settings, None)
    if provider not in DEFAULT_ENDPOINTS:
        raise NoModel(f"OCF_MODEL_ENDPOINT is required: no endpoint is known for provider {provider!r} of OCF_MODEL")
    return _target(provider, model, DEFAULT_ENDPOINTS[provider], _own_key(provider, settings))


def _at_operators_endpoint(
    provider: str, model: str, settings: ModelSettings, api_key: SecretStr | None
) -> ModelTarget:
    endpoint = check_endpoint(settings.endpoint or "", name="OCF_MODEL_ENDPOINT", allow_hosts=settings.allow_hosts)
    # OCF_MODEL_ENDPOINT is OpenAI-compatible by contract, whatever the models behind it are called.
    kind: Kind = "anthropic" if urlsplit(endpoint).hostname == "api.anthropic.com" else "openai"
    return _target(provider, model, endpoint, api_key or _own_key(provider, settings), kind)


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
    return ModelTarget(OFFLINE_PROVIDER, model, "openai", settings.offline_url.rstrip("/"), offline=True)


def _target(provider: str, model: str, endpoint: str, key: SecretStr | None, kind: Kind | None = None) -> ModelTarget:
    if kind is None:
        anthropics = provider == "anthropic" or urlsplit(endpoint).hostname == "api.anthropic.com"
        kind = "anthropic" if anthropics else "openai"
    endpoint = endpoint.rstrip("/")
    path = urlsplit(endpoint).path
    # Anthropic's own clients write `https://api.anthropic.com`; both API formats live under /v1.
    if not path or (kind == "anthropic" and not path.endswith("/v1")):
        endpoint += "/v1"
    return _priced(ModelTarget(provider, model, kind, endpoint, key), {})


def _priced(target: ModelTarget, wanted: Mapping[str, Any]) -> ModelTarget:
    """Return `target` with the settings in `wanted` and the list price of the resulting model."""
    asked = replace(target, **wanted)
    return replace(asked, prices=prices_for(asked.wire_model) or prices_for(asked.model))
