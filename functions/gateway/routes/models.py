"""Route of the models that can be asked for, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ocf.functions.gateway.context import Caller, Gw
from ocf.functions.gateway.request_body import StrictRoute
from ocf.functions.gateway.response_schemas import View
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.models import catalog
from ocf.functions.models.prices import UNIT
from ocf.functions.models.resolve import OFFLINE_MODEL, OFFLINE_PROVIDER

router = APIRouter(tags=["models"], route_class=StrictRoute)

_OFFLINE = {
    **dict.fromkeys(("context", "output", "input", "reasoning", "variants", "temperature", "price")),
    "provider": OFFLINE_PROVIDER,
    "model": OFFLINE_MODEL,
    "name": "offline scripted model",
}


class Rate(View):
    """Prices; null where they are not known."""

    input: float
    output: float
    cache_read: float | None
    cache_write: float | None


class Tier(Rate):
    """Prices of a call whose input is longer."""

    above: Annotated[int, Field(description="tokens of input")]


class Price(Rate):
    """Prices of a call."""

    tiers: list[Tier]
    unit: Annotated[str, Field(examples=[UNIT])]


class ModelView(View):
    """A model and its facts; null where they are not known."""

    provider: str
    model: str
    name: str
    context: Annotated[int | None, Field(description="tokens of input and output together")]
    output: Annotated[int | None, Field(description="tokens of an answer")]
    input: Annotated[list[str] | None, Field(description="text, image, pdf, audio, video")]
    reasoning: bool | None
    variants: Annotated[list[str] | None, Field(description="reasoning efforts that a task may ask for")]
    temperature: Annotated[bool | None, Field(description="whether it takes a temperature")]
    price: Price | None


class ModelList(View):
    """The models of all providers, or of one."""

    models: list[ModelView]
    agent_version: Annotated[str, Field(description="the OpenCode that this release is pinned to")]


@router.get("/models", response_model=ModelList)
def models(
    gateway: Gw,
    caller: Caller,
    provider: Annotated[str | None, Query(max_length=63, description="only its models")] = None,
) -> Response:
    """List the models that a task may ask for by name, with their limits, kinds of input, variants and prices.

    The list is the catalog of the pinned OpenCode, the operator's own models (OCF_MODELS_FILE) first. A model that is
    not in it needs `model_config.api_endpoint`.
    """
    answer = {"models": list(_found(gateway.settings, provider)), "agent_version": catalog.opencode_version()}
    return Response(json.dumps(answer, ensure_ascii=False), 200, media_type="application/json")


def _found(settings: GatewaySettings, provider: str | None) -> Iterator[dict[str, Any]]:
    if settings.offline_model and provider in (None, OFFLINE_PROVIDER):
        yield _OFFLINE
    own = [facts for facts in settings.models if provider in (None, facts.provider)]
    yield from (facts.described() for facts in own)
    names = {(facts.provider, facts.model) for facts in own}
    for facts in catalog.models(provider):
        if (facts.provider, facts.model) not in names:
            yield facts.described()
