"""Which model runs a task, and which key goes where."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events.command_payloads import ModelConfigData
from ocf.functions.models.endpoint_check import BadEndpoint, check_endpoint
from ocf.functions.models.prices import Prices
from ocf.functions.models.resolve import ModelSettings, NoModel, resolve, uses_offline

OWN = SecretStr("sk-operator-0123456789")
ANTHROPIC = SecretStr("sk-ant-0123456789")
TASK = SecretStr("sk-task-0123456789")
ANTHROPIC_URL = "https://api.anthropic.com/v1"
OFFLINE = "http://127.0.0.1:4010/v1"


def asked(**fields: Any) -> ModelConfigData:
    return ModelConfigData(**{"provider": "openai", "model": "gpt-4o", **fields})


def test_without_anything_it_is_the_offline_model_and_says_so() -> None:
    """Nobody is misled."""
    target = resolve(None, ModelSettings(offline_url=OFFLINE))
    assert target.offline
    assert target.display_name == "offline/scripted (offline scripted model)"
    assert (target.kind, target.base_url, target.api_key) == ("openai", OFFLINE, None)


def test_without_anything_at_all_the_error_says_what_to_set() -> None:
    """One line that names the settings."""
    with pytest.raises(NoModel, match="set ANTHROPIC_API_KEY, OPENAI_API_KEY, or OCF_MODEL and OCF_MODEL_ENDPOINT"):
        resolve(None, ModelSettings())


@pytest.mark.parametrize(("settings", "provider", "base_url", "key"), [
    (ModelSettings(anthropic_api_key=ANTHROPIC, openai_api_key=OWN), "anthropic", ANTHROPIC_URL, ANTHROPIC),
    (ModelSettings(openai_api_key=OWN), "openai", "https://api.openai.com/v1", OWN),
    (ModelSettings(model="openrouter/meta/llama", api_key=OWN), "openrouter", "https://openrouter.ai/api/v1", OWN),
    (ModelSettings(model="local/qwen", endpoint="http://gpu:8000/v1/"), "local", "http://gpu:8000/v1", None),
    (ModelSettings(model="local/qwen", endpoint="http://gpu:8000", api_key=OWN), "local", "http://gpu:8000/v1", OWN),
    (ModelSettings(model="anthropic/x", anthropic_api_key=ANTHROPIC), "anthropic", ANTHROPIC_URL, ANTHROPIC),
    (ModelSettings(api_key=OWN), "openai", "https://api.openai.com/v1", OWN),
])  # fmt: skip
def test_the_operators_settings(settings: ModelSettings, provider: str, base_url: str, key: SecretStr | None) -> None:
    """OCF_MODEL and its endpoint before the providers' own keys."""
    target = resolve(None, settings)
    assert (target.provider, target.base_url, target.api_key, target.offline) == (provider, base_url, key, False)
    assert target.kind == ("anthropic" if provider == "anthropic" else "openai")
    assert not uses_offline(settings)


def test_the_whole_model_config_is_honoured() -> None:
    """Every field of the contract ends up in the target."""
    config = asked(
        model_version="2024-08-06", api_endpoint="https://llm.example.com/v1", temperature=0.1, max_tokens=100,
        enabled_tools=["read"], system_prompt="Be brief.",
    )  # fmt: skip
    target = resolve(config, ModelSettings(openai_api_key=OWN), TASK)
    assert target.wire_model == "gpt-4o-2024-08-06"
    assert (target.base_url, target.api_key) == ("https://llm.example.com/v1", TASK)
    assert (target.temperature, target.max_tokens, target.enabled_tools) == (0.1, 100, ("read",))
    assert target.system_prompt == "Be brief."
    assert target.prices == Prices(2.5, 10, 1.25)


@pytest.mark.parametrize("settings", [
    ModelSettings(api_key=OWN), ModelSettings(openai_api_key=OWN),
    ModelSettings(model="openai/gpt-4o", endpoint="https://gateway.example.com/v1", api_key=OWN),
])  # fmt: skip
def test_the_operators_key_never_goes_to_an_endpoint_of_the_caller(settings: ModelSettings) -> None:
    """Else a task could name its own server and read the key there."""
    target = resolve(asked(api_endpoint="https://thief.example.com/v1"), settings)
    assert target.api_key is None


def test_a_line_end_after_a_key_is_no_part_of_it() -> None:
    """`ocf encrypt-key < file` seals it along."""
    target = resolve(asked(), ModelSettings(), SecretStr("sk-task-0123456789\n"))
    assert target.api_key == TASK


def test_a_task_without_endpoint_uses_the_operators() -> None:
    """The same provider, the operator's endpoint and key; a key of its own wins."""
    settings = ModelSettings(model="local/qwen", endpoint="http://127.0.0.1:8000/v1", api_key=OWN)
    target = resolve(asked(provider="local", model="other"), settings)
    assert (target.model, target.base_url, target.api_key) == ("other", "http://127.0.0.1:8000/v1", OWN)
    assert resolve(asked(provider="local", model="other"), settings, TASK).api_key == TASK


def test_a_provider_nobody_knows_needs_an_endpoint() -> None:
    """With the field's name in the error."""
    with pytest.raises(NoModel, match=r"for provider 'unheard-of'; give model_config[.]api_endpoint"):
        resolve(asked(provider="unheard-of"), ModelSettings(offline_url=OFFLINE))


def test_the_offline_model_gets_its_own_key_only() -> None:
    """The operator's other keys are not for it."""
    key = SecretStr("offline-key")
    settings = ModelSettings(offline_url=OFFLINE, offline_key=key, anthropic_api_key=SecretStr("other"))
    assert resolve(asked(provider="offline", model="scripted"), settings).api_key == key
    assert resolve(asked(provider="anthropic", model="claude-sonnet-4-5"), settings).api_key != key


def test_a_task_can_ask_for_the_offline_model() -> None:
    """With its wishes, so that a test can read them back."""
    target = resolve(asked(provider="offline", model="scripted", temperature=1), ModelSettings(offline_url=OFFLINE))
    assert target.offline
    assert target.temperature == 1


@pytest.mark.parametrize(("endpoint", "base_url"), [
    ("https://api.anthropic.com", "https://api.anthropic.com/v1"),
    ("https://proxy.example.com/anthropic", "https://proxy.example.com/anthropic/v1"),
    ("https://proxy.example.com/v1/", "https://proxy.example.com/v1"),
])  # fmt: skip
def test_anthropic_endpoints_with_and_without_version(endpoint: str, base_url: str) -> None:
    """Both spellings in the wild work."""
    target = resolve(asked(provider="anthropic", model="claude-sonnet-4-5", api_endpoint=endpoint), ModelSettings())
    assert (target.kind, target.base_url) == ("anthropic", base_url)


@pytest.mark.parametrize("url", [
    "ftp://x/v1", "file:///etc/passwd", "http://", "http:///v1", "https://user:pw@x/v1", "https://x/v1?a=b",
    "http://169.254.169.254/v1", "http://[fe80::1]/v1", "http://[::ffff:169.254.169.254]/v1", "http://0.0.0.0/v1",
    "http://2852039166/v1", "http://0xa9fea9fe/v1", "http://169.254.43518/v1", "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/v1", "http://metadata.google.internal./v1", "http://100.100.100.200/",
    "http://[64:ff9b::a9fe:a9fe]/", "http://x:99999/", "http://[::]/",
])  # fmt: skip
def test_endpoints_nobody_may_name(url: str) -> None:
    """Other schemes, credentials in the URL, metadata services in every spelling."""
    with pytest.raises(BadEndpoint, match="api_endpoint"):
        check_endpoint(url)


def test_an_operator_can_allow_such_a_host() -> None:
    """For a gateway that really is link-local; private and loopback addresses need no allowing."""
    assert check_endpoint("http://169.254.1.1/v1/", allow_hosts={"169.254.1.1"}) == "http://169.254.1.1/v1"
    assert check_endpoint("http://127.0.0.1:8000/v1") == "http://127.0.0.1:8000/v1"
    assert check_endpoint("http://10.0.0.7:8000/v1") == "http://10.0.0.7:8000/v1"
