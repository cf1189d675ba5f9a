"""Model of an execution, after resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from ocf.functions.models.prices import Prices

#: The API format: OpenAI's chat completions and compatible ones, or Anthropic's messages.
Kind = Literal["openai", "anthropic"]


@dataclass(frozen=True)
class ModelTarget:
    """Everything the model proxy needs to reach a model, and the caller's settings for it.

    `base_url` ends with the version segment (`.../v1`) and without a slash. `offline` marks the scripted model: every
    screen must show that. `provider_tools` are types of the provider's own tools that the operator allows.
    """

    provider: str
    model: str
    kind: Kind
    base_url: str
    api_key: SecretStr | None = None
    model_version: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    enabled_tools: tuple[str, ...] | None = None
    system_prompt: str | None = None
    prices: Prices | None = None
    offline: bool = False
    provider_tools: tuple[str, ...] = ()

    @property
    def wire_model(self) -> str:
        """Return the provider's name of the model: `model-version`, or the version alone if it is the whole name."""
        if not self.model_version:
            return self.model
        if self.model_version.startswith(self.model):
            return self.model_version
        return f"{self.model}-{self.model_version}"

    @property
    def display_name(self) -> str:
        """Return the name for display, with the mark of the offline model."""
        name = f"{self.provider}/{self.wire_model}"
        return f"{name} (offline scripted model)" if self.offline else name
