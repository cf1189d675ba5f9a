"""Facts of models that the catalog does not have: given with a task, or in the operator's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ocf.events import untrusted_json
from ocf.events.base_model import Model
from ocf.events.command_payloads import ModelFactsData
from ocf.events.errors import DeadLetter
from ocf.functions.models.catalog import WIRES, ModelFacts
from ocf.functions.models.prices import Prices

_PACKAGES = {
    "chat": "@ai-sdk/openai-compatible",
    "responses": "@ai-sdk/openai",
    "messages": "@ai-sdk/anthropic",
    "gemini": "@ai-sdk/google",
}


class BadModelsFile(DeadLetter):
    """The operator's file of models is not usable; names the field."""


class _OperatorsModel(ModelFactsData):
    provider: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    model: Annotated[str, Field(min_length=1, max_length=200)]


class _OperatorsFile(Model):
    models: Annotated[list[_OperatorsModel], Field(max_length=1000)]


def given_facts(provider: str, model: str, data: ModelFactsData) -> ModelFacts:
    """Return what a task or the operator states of a model."""
    price = data.price
    prices = None if price is None else Prices(price.input, price.output, price.cache_read, price.cache_write)
    entry: dict[str, Any] = {
        "tool_call": True,
        "reasoning": data.reasoning,
        "temperature": data.temperature,
        "attachment": data.input != ["text"],
        "modalities": {"input": data.input, "output": ["text"]},
        "limit": {"context": data.context, "output": data.output},
        "reasoning_options": [{"type": "effort", "values": data.variants}] if data.variants else [],
    }
    if price is not None:
        entry["cost"] = price.model_dump(exclude_none=True)
    return ModelFacts(
        provider, model, model, data.context, data.output, tuple(data.input), data.reasoning, tuple(data.variants),
        data.temperature, prices, _PACKAGES[data.api_format or "chat"], None, json.dumps(entry),
    )  # fmt: skip


def operators_facts(path: Path | None) -> tuple[ModelFacts, ...]:
    """Return the facts in the operator's file (`OCF_MODELS_FILE`), a JSON object like the answer of `GET /models`.

    Raises:
        BadModelsFile: it cannot be read, or has a bad field.
    """
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            text = file.read(untrusted_json.MIB + 1)
    except OSError as error:
        raise BadModelsFile(f"OCF_MODELS_FILE {path}: {error.strerror}") from None
    if len(text) > untrusted_json.MIB:
        raise BadModelsFile(f"OCF_MODELS_FILE {path}: more than {untrusted_json.MIB} bytes")
    try:
        found = _OperatorsFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise BadModelsFile(f"OCF_MODELS_FILE {path}: {place}: {first['msg']}") from None
    return tuple(given_facts(item.provider, item.model, item) for item in found.models)


assert set(_PACKAGES.values()) <= WIRES.keys()
