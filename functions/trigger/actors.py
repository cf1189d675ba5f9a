"""Actors: whether the user who caused an event of a forge may steer a rule. The forge is asked, not the payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.forges.forge import Forge, at_least
from ocf.functions.forges.http import ForgeRefused, forge_client
from ocf.functions.rules.forge_cloudevents import Actor, actor_of
from ocf.functions.rules.rule import Rule
from ocf.functions.rules.rulebook import CompiledRule, RuleFailed


async def refusal(rule: CompiledRule, event: Mapping[str, Any], credentials: ForgeCredentials) -> str | None:
    """Return why the user who caused the event may not steer the rule, or None. Other events have no such user.

    Raises:
        RuleFailed: The forge cannot be asked, because there is no credential for it, or it refuses.
        ForgeUnavailable: The forge does not answer now.
    """
    actor, wanted = actor_of(event), rule.rule.on.actors
    if actor is None:
        return None
    if actor.bot or not actor.login:
        return f"on.actors: {actor.login or 'nobody'} is a bot"
    if wanted.users and actor.login.lower() not in {user.lower() for user in wanted.users}:
        return f"on.actors.users: {actor.login} is not among them"
    name = rule.rule.credential
    if name is None and wanted.permission == "any":
        return None
    if name is None:
        raise RuleFailed(
            f"rule {rule.rule.name}: on.actors: name a credential with which {actor.forge} can be asked for the "
            "permission of its user, or say permission: any"
        )
    try:
        async with forge_client() as client:
            return await _asked(rule.rule, actor, await _forge(credentials, client, rule.project, name, actor))
    except ForgeRefused as error:
        raise RuleFailed(f"rule {rule.rule.name}: on.actors: {error}") from None


async def _forge(
    credentials: ForgeCredentials, client: httpx2.AsyncClient, project: str, name: str, actor: Actor
) -> Forge:
    access = await credentials.access(client, project, name, url=actor.url)
    if access.address.kind != actor.forge:
        raise ForgeRefused(f"credential {name!r} is of {access.address.kind}, the event of {actor.forge}")
    return access.connect(client)


async def _asked(rule: Rule, actor: Actor, forge: Forge) -> str | None:
    wanted = rule.on.actors.permission
    try:
        own = await forge.login()
    except ForgeRefused:
        own = ""  # an installation of a GitHub App, whose events a bot causes
    if actor.login.lower() == own.lower() and not rule.own_events:
        return f"on.actors: {actor.login} is the account of the rule's own credential"
    if wanted == "any":
        return None
    found = await forge.permission(actor.repository, actor.login)
    if at_least(found, wanted):
        return None
    return f"on.actors.permission: {actor.login} has {found} in {actor.repository}, not {wanted}"
