"""Life-cycle events reach receivers outside: signed, again when nobody was there, and as dead letters in the end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

import httpx2
import pytest

from ocf.stack.ports import free_port
from tests.integration.test_docs_run import block
from tests.support.receiver import Posted, Receiver
from tests.support.stack import Project, Stack, running_stack, until

pytestmark = pytest.mark.slow

SECRET, OLD, OTHER = (f"whsec_{text}" for text in ("QUFB" * 8, "QkJC" * 8, "Q0ND" * 8))
ENDED = "dev.ocf.task.completed.v1"
Verify = Callable[..., bool]


@pytest.fixture(scope="module")
def receivers() -> tuple[Receiver, Receiver]:
    """Two servers; neither listens yet."""
    first = free_port()
    return Receiver(first), Receiver(free_port((first,)))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, receivers: tuple[Receiver, Receiver]) -> Iterator[Stack]:
    """A stack that tells one receiver of project `acme`, the other of every project's endings, and a third in vain."""
    one, other = (f"http://127.0.0.1:{receiver.port}" for receiver in receivers)
    told = {
        "EVENT_SINKS": f"acme={one}/acme,audit:*/ended={other}/audit,broken:broken-project/completed={other}/broken",
        "EVENT_SINK_SECRETS": f"acme={SECRET} {OLD},audit={OTHER},broken={OTHER}",
        "EVENT_SINK_TRIES": "3",
    }
    with running_stack(tmp_path_factory.mktemp("stack"), **told) as running:
        yield running


@pytest.fixture(scope="module")
def verify() -> Verify:
    """The function of docs/how-to/receive-webhooks.md."""
    names: dict[str, Verify] = {}
    page = "docs/how-to/receive-webhooks.md"
    exec(compile(block(page, "verify-webhook"), page, "exec"), names)
    return names["verify"]


def types(posted: list[Posted], execution: str) -> list[str]:
    """The types of what came about an execution."""
    events = [json.loads(request.body) for request in posted]
    return [event["type"] for event in events if event["data"]["execution_id"] == execution]


async def ran(project: Project) -> str:
    """An execution that has completed."""
    execution = await project.submit("Say hello")
    await project.ended(execution)
    return execution


async def came(receiver: Receiver, path: str, execution: str, wanted: str = ENDED) -> None:
    """Wait for that type about that execution."""

    async def there() -> bool:
        return wanted in types(receiver.at(path), execution)

    await until(there, what=f"{wanted} at {path}")


async def test_receivers_are_told_what_is_theirs_signed(
    stack: Stack, receivers: tuple[Receiver, Receiver], verify: Verify
) -> None:
    """Every fact of the project to its own sink, endings of all projects to the other; the page's code tells real
    from forged, and takes the key that is being replaced."""
    one, other = receivers
    async with stack.project("acme") as acme, stack.project(f"p-{uuid.uuid4().hex[:8]}") as somebody:
        with one.listening(), other.listening():
            mine, theirs = await ran(acme), await ran(somebody)
            await came(one, "/acme", mine, "dev.ocf.task.archived.v1")
            for execution in (mine, theirs):
                await came(other, "/audit", execution)
        assert set(types(one.at("/acme"), mine)) == {
            f"dev.ocf.task.{what}.v1" for what in ("accepted", "started", "completed", "archived")
        }
        assert types(one.posted, theirs) == []
        assert types(other.at("/audit"), mine) == types(other.at("/audit"), theirs) == [ENDED]
    request = one.at("/acme")[-1]
    for secrets in ([SECRET], [OLD], [OTHER, OLD]):
        assert verify(request.headers, request.body, secrets)
    assert not verify(request.headers, request.body, [OTHER])
    assert not verify(request.headers, request.body.replace(b"archived", b"failed"), [SECRET])
    assert not verify({**request.headers, "webhook-id": str(uuid.uuid4())}, request.body, [SECRET])
    assert not verify(request.headers, request.body, [SECRET], tolerance=-1)


async def test_a_receiver_that_was_down_gets_it_later_and_holds_up_no_other(
    stack: Stack, receivers: tuple[Receiver, Receiver]
) -> None:
    """Refused connections are tried again; meanwhile the other sink has long had its event."""
    one, other = receivers
    async with stack.project("acme") as acme:
        with other.listening():
            execution = await ran(acme)
            await came(other, "/audit", execution)
            assert types(one.posted, execution) == []
            with one.listening():
                await came(one, "/acme", execution)
    identities = [r.headers["webhook-id"] for r in one.posted if ENDED in types([r], execution)]
    assert len(identities) == 1


async def test_refused_event_becomes_a_dead_letter_that_can_be_redriven(
    stack: Stack, receivers: tuple[Receiver, Receiver]
) -> None:
    """After the last try it is in the dead letters; redriven it goes to that sink, and to that sink only."""
    _, other = receivers
    other.status["/broken"] = 500
    async with stack.project("broken-project") as project:
        with other.listening():
            execution = await ran(project)

            async def dead() -> dict[str, object] | None:
                async with httpx2.AsyncClient(base_url=stack.answer["gateway"], trust_env=False) as http:
                    letters = (await http.get("/dlq")).json()["items"]
                return next((one for one in letters if one["consumer"] == "sink-broken"), None)

            letter = await until(dead, what="the dead letter")
            assert letter["deliveries"] == len(other.at("/broken")) == 3
            assert str(letter["subject"]).endswith(f"{execution}.completed")
            other.status["/broken"] = 204
            async with httpx2.AsyncClient(base_url=stack.answer["gateway"], trust_env=False) as http:
                assert (await http.post(f"/dlq/{letter['seq']}/redrive")).status_code == 202

            async def again() -> bool:
                return len(other.at("/broken")) == 4

            await until(again, what="the event once more")
    assert len({request.headers["webhook-id"] for request in other.at("/broken")}) == 1
    assert types(other.at("/audit"), execution) == [ENDED]
