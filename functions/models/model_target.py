"""The model an execution talks to, once that is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from ocf.functions.models.prices import Prices

#: The wire form: OpenAI's chat completions and what speaks it, or Anthropic's messages.
Kind = Literal["openai", "anthropic"]


@dataclass(frozen=True)
class ModelTarget:
    """Everything the broker needs to reach a model, and everything the caller asked of it.

    `base_url` ends with the version segment (`.../v1`) and without a slash. `offline` marks the scripted model:
    every screen must say so. `provider_tools` are types of the provider's own tools that the operator allows.
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
        """The model's name at the provider: `model-version`, or the version alone where it is the whole name."""
        if not self.model_version:
            return self.model
        if self.model_version.startswith(self.model):
            return self.model_version
        return f"{self.model}-{self.model_version}"

    @property
    def display_name(self) -> str:
        """How people see it, with the mark of the offline model."""
        name = f"{self.provider}/{self.wire_model}"
        return f"{name} (offline scripted model)" if self.offline else name
