"""Who may steer a rule: the forge's API decides, not the payload; bots and our own account never."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.envelope import Event
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.forges.credentials import Credential, ForgeCredentials
from ocf.functions.forges.http import ForgeUnavailable
from ocf.functions.rules.rule import Rule
from ocf.functions.rules.rulebook import CompiledRule, RuleFailed, view
from ocf.functions.trigger.actors import refusal
from tests.support.clock import ManualClock
from tests.support.forge import REPOSITORY, TOKEN, StandIn, stand_in

CLOCK = ManualClock()


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("forge"), {"README": "x"}) as found:
        found.roles = {"ann": "write", "tim": "triage", "rob": "read", "ocf-bot": "write"}
        yield found


async def credentials(forge: StandIn) -> ForgeCredentials:
    keyring = Keyring(generate_key())
    made = ForgeCredentials(MemoryBucket(CLOCK), CLOCK, keyring)
    sealed = keyring.seal(TOKEN, "p")
    given = {"name": "forge", "project_id": "p", "forge": "gitea", "api_url": forge.api_url, "created_at": CLOCK.now()}
    await made.put(Credential(token=sealed, **given))  # type: ignore[arg-type]
    return made


def by(user: str, forge: StandIn, **payload: Any) -> dict[str, Any]:
    """A webhook of Gitea in which the user claims to own everything."""
    repository = {"full_name": REPOSITORY, "clone_url": forge.url, "html_url": forge.url.removesuffix(".git")}
    data = {
        "action": "opened",
        "sender": {"login": user, "is_admin": True},
        "issue": {"number": 1, "author_association": "OWNER"},
        "repository": repository,
        **payload,
    }
    return view(Event("com.gitea.issues.opened", "s", "1", CLOCK.now(), json.dumps(data).encode()))


def a_rule(task: dict[str, Any] | None = None, **actors: Any) -> CompiledRule:
    on = {"type": "com.gitea.*", "actors": actors}
    return CompiledRule(Rule.model_validate({"name": "fix", "on": on, "task": {"prompt": "go", **(task or {})}}), "p")


@pytest.mark.parametrize(
    ("user", "actors", "reason"),
    [
        ("ann", {}, None),
        ("tim", {}, "tim has triage"),
        ("tim", {"permission": "triage"}, None),
        ("rob", {"permission": "triage"}, "rob has read"),
        ("nobody", {}, "nobody has none"),
        ("nobody", {"permission": "any"}, None),
        ("ann", {"users": ["tim"]}, "ann is not among them"),
        ("ann", {"users": ["Ann"]}, None),
        ("ocf-bot", {"permission": "any"}, "own credential"),
        ("dependabot[bot]", {"permission": "any"}, "is a bot"),
        ("", {"permission": "any"}, "is a bot"),
    ],
)
async def test_the_forge_is_asked_for_the_permission(
    forge: StandIn, user: str, actors: dict[str, Any], reason: str | None
) -> None:
    """What the payload says about the user's rights does not count."""
    found = await refusal(a_rule(credential="forge", **actors), by(user, forge), await credentials(forge))
    assert (found is None) if reason is None else (found is not None and reason in found)


async def test_without_a_credential_nobody_may_steer_unless_anybody_may(forge: StandIn) -> None:
    """The error names the field."""
    known = await credentials(forge)
    with pytest.raises(RuleFailed, match=r"rule fix: on\.actors: name a credential"):
        await refusal(a_rule(), by("ann", forge), known)
    assert await refusal(a_rule(permission="any"), by("ann", forge), known) is None
    assert await refusal(a_rule({"result": {"branch": "x", "credential": "forge"}}), by("ann", forge), known) is None


async def test_a_repository_of_another_forge_is_not_asked_about(forge: StandIn) -> None:
    """The payload of one forge cannot make us ask another one."""
    event = by("ann", forge, repository={"full_name": REPOSITORY, "clone_url": "https://evil.example/team/app.git"})
    with pytest.raises(RuleFailed, match=r"the repository is at https://evil\.example"):
        await refusal(a_rule(credential="forge"), event, await credentials(forge))


async def test_a_forge_that_does_not_answer_lets_the_event_wait(forge: StandIn) -> None:
    """It is delivered again."""
    forge.before = lambda *_: 503
    try:
        with pytest.raises(ForgeUnavailable):
            await refusal(a_rule(credential="forge"), by("ann", forge), await credentials(forge))
    finally:
        forge.before = lambda *_: None
