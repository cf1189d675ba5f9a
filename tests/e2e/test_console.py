"""The console in a real browser against the whole embedded stack; the only thing scripted is the model's text."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from ocf import Gateway
from ocf.events.adapters.nats.bus import connect
from ocf.functions.runtime.nats_auth import mint_viewer, public_key
from ocf.stack.keys import load_or_generate
from tests.integration.test_docs_run import block
from tests.support import typescript
from tests.support.console import (
    CHROMIUM,
    ROOT,
    SECOND,
    build,
    essence,
    pill,
    record_states,
    seen,
    serving,
    states,
    wait_for,
)

OCF = Path(sys.executable).with_name("ocf")
#: The page whose examples are run here.
WATCH_OUTPUT = ROOT / "docs/how-to/watch-output.md"
#: The prompt that the offline scripted model knows: about twenty seconds of reading, running tests and editing.
PROMPT = "Run the tests, find out why one fails, and fix it."
#: Long enough for a run on a machine that has a tenth of its processor time left.
RUN = 180 * SECOND

#: A program whose four fields are wrong.
WRONG = """import { Gateway, type events, type TaskStatus } from "opencode-functions-client";
void new Gateway("").submit({ promt: "" });
void new Gateway("").submit({ prompt: "", retry: { max_attempts: "2" } });
export const state: TaskStatus["status"] = "done";
export const data: events.TaskFailedData = { reason: "unheard_of" };
"""

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (or CHROMIUM=PATH)"),
    pytest.mark.timeout(480),
]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a foreign server with one page: the code of docs/how-to/watch-output.md, unchanged."""
    folder = tmp_path_factory.mktemp("elsewhere")
    found = re.search(r"<!-- example: page -->\n```html\n(.*?)```", WATCH_OUTPUT.read_text(), re.S)
    assert found is not None
    (folder / "page.html").write_text(found[1])
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, elsewhere: str) -> Iterator[dict[str, str]]:
    """A stack of this module's own, the console built; pages from elsewhere may call it."""
    build()
    data = tmp_path_factory.mktemp("stack")
    told = subprocess.run(
        [OCF, "up", "--detach", "--json", "--data-dir", data],
        cwd=ROOT, env={**os.environ, "CORS_ORIGINS": elsewhere}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    try:
        yield json.loads(told.stdout)
    finally:
        subprocess.run([OCF, "down", "--data-dir", data], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture
def page(browser: Browser, stack: dict[str, str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=stack["console"])
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    context.close()
    assert failures == []


def submit(page: Page, *, ask: bool = False) -> str:
    """Fill the form in as a user does; the execution's id. With `ask` it waits before every shell command."""
    page.goto("/#/new")
    page.get_by_label("What is to be done?").fill(PROMPT)
    page.get_by_role("radio", name="Directory").check()
    page.get_by_label("Path").fill(str(ROOT / "demo/repo"))
    if ask:
        page.get_by_text("Permissions and network").click()
        page.get_by_role("group", name="Shell commands").get_by_role("radio", name="Ask me").check()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"#/tasks/[0-9a-f-]{36}"))
    return page.url.rsplit("/", 1)[1]


def wait_until_complete(page: Page) -> None:
    expect(pill(page)).to_contain_text("Complete", timeout=RUN)


def wait_until_it_says_something(page: Page) -> None:
    expect(page.locator(".row-tool").first).to_be_visible(timeout=RUN)


def history(stack: dict[str, str], execution: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{stack['gateway']}/tasks/{execution}/output?format=ndjson") as answer:
        return [json.loads(line) for line in answer]


def wait_until_it_was(page: Page, state: str) -> None:
    """Wait until `state` was reported, however short; the page's policy forbids Playwright's own wait for a script."""
    wait_for(page, lambda: state in states(page), state)


def publish(stack: dict[str, str], subject: str, data: bytes) -> None:
    """Publish what is no event, as a backend."""

    async def say() -> None:
        bus = await connect(stack["nats"], creds=Path(stack["nats_creds"]), name="test")
        await bus.publish(subject, data, {})
        await bus.close()

    with ThreadPoolExecutor(1) as pool:  # Playwright has an event loop running in this one
        pool.submit(asyncio.run, say()).result()


def dead_letters(stack: dict[str, str]) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{stack['gateway']}/dlq") as answer:
        found: list[dict[str, Any]] = json.load(answer)["items"]
    return found


def nats_server(stack: dict[str, str]) -> psutil.Process:
    """This stack's own nats-server, known by its configuration file."""
    config = str(Path(stack["data_dir"]) / "nats.conf")
    [found] = [one for one in psutil.process_iter(["cmdline"]) if config in (one.info["cmdline"] or [])]
    return found


def test_two_viewers_a_reload_and_a_restart_of_nats_lose_nothing(
    page: Page, browser: Browser, stack: dict[str, str]
) -> None:
    """While the agent waits for a permission a second viewer reloads and NATS is killed; the first one answers.
    Both get every chunk once, to the end, and the page said that it was cut off while it was."""
    execution = submit(page, ask=True)
    allow = page.get_by_role("button", name="Allow once")
    expect(allow).to_be_enabled(timeout=RUN)
    record_states(page)
    context = browser.new_context(base_url=stack["console"])
    second = context.new_page()
    second.goto(f"/#/tasks/{execution}")
    wait_until_it_says_something(second)
    second.reload()
    expect(pill(second)).to_contain_text("Live", timeout=20 * SECOND)
    nats_server(stack).kill()
    wait_until_it_was(page, "disconnected")
    expect(pill(page)).to_contain_text("Live", timeout=RUN)
    while "Complete" not in pill(page).inner_text():
        expect(page.locator(".waiting .primary:enabled").or_(page.locator(".stream-pill.ended")).first).to_be_visible(
            timeout=RUN
        )
        if allow.is_visible():
            allow.click()
            expect(allow).to_be_hidden()
    wait_until_complete(second)
    said = history(stack, execution)
    assert [chunk["seq"] for chunk in said] == list(range(1, len(said) + 1))
    assert essence(seen(page)) == essence(said)
    assert essence(seen(second)) == essence(said)
    assert {"disconnected", "ended"} <= states(page).keys()
    expect(page.locator(".execution-meta")).to_contain_text("Completed")
    context.close()


def test_a_token_that_expires_in_mid_run_is_renewed_before(page: Page, stack: dict[str, str]) -> None:
    """With credentials of twelve seconds the stream goes on over several of them, without being disconnected once."""
    trust = load_or_generate(Path(stack["data_dir"])).trust
    minted: list[float] = []

    def short(route: Route) -> None:
        execution = route.request.url.split("/")[-2]
        answer = route.fetch()
        now = time.time()
        viewer = mint_viewer(
            trust.viewer_signing, public_key(trust.account), "default", execution, ttl=12, now=int(now)
        )
        minted.append(now)
        route.fulfill(response=answer, json={**answer.json(), "jwt": viewer.jwt, "seed": viewer.seed})

    page.route("**/token", short)
    execution = submit(page)
    expect(pill(page)).to_contain_text("Live", timeout=20 * SECOND)
    record_states(page)
    wait_until_complete(page)
    assert len(minted) >= 2
    assert "disconnected" not in states(page)
    assert essence(seen(page)) == essence(history(stack, execution))


def test_cancel_ends_the_run_and_says_so(page: Page) -> None:
    """Cancel asks first, then the run is cancelled and the page knows the end."""
    submit(page)
    wait_until_it_says_something(page)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.locator(".execution-meta")).to_contain_text("Cancelled", timeout=30 * SECOND)
    wait_until_complete(page)


def test_an_ended_run_is_listed_replayed_and_taken_home(page: Page, stack: dict[str, str]) -> None:
    """History leads to the run; its diff, downloads and replay are there; nothing is asked of any other host."""
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    page.on("websocket", lambda socket: hosts.add(socket.url.split("/")[2].split(":")[0]))
    execution = submit(page)
    wait_until_complete(page)

    page.goto("/#/?status=completed&q=find+out+why")
    page.get_by_role("link", name=PROMPT).first.click()
    page.get_by_role("button", name="Changes").click()
    expect(page.locator(".diff-file")).to_have_count(1)
    page.get_by_label("Download").click()
    with page.expect_download() as patch:
        page.get_by_role("button", name="Patch").click()
    assert Path(patch.value.path()).read_text().startswith("diff --git ")

    page.get_by_label("Download").click()
    with page.expect_download() as text:
        page.get_by_role("button", name="Output as text").click()
    assert "> bash python3 -m unittest" in Path(text.value.path()).read_text()

    page.get_by_role("link", name="Replay").click()
    page.get_by_role("button", name="Pause").click()
    position = page.get_by_label("Position")
    position.press("Home")
    expect(page.locator(".transcript .row")).to_have_count(1)
    position.press("End")
    expect(page.locator(".transcript")).to_contain_text("completed")
    assert hosts == {"127.0.0.1"}
    assert execution in page.url


def test_the_python_example_of_the_docs_shows_a_run(page: Page, stack: dict[str, str], tmp_path: Path) -> None:
    """The code of docs/how-to/watch-output.md, as it stands there, prints every chunk once and in order."""
    found = re.search(r"<!-- example: python -->\n```python\n(.*?)```", WATCH_OUTPUT.read_text(), re.S)
    assert found is not None
    script = tmp_path / "example.py"
    script.write_text(found[1])
    execution = submit(page)
    printed = subprocess.run(
        [sys.executable, script, stack["nats"], stack["nats_creds"], execution],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True, timeout=RUN / SECOND,
    ).stdout  # fmt: skip
    seqs = [chunk["seq"] for chunk in history(stack, execution)]
    assert [int(one) for one in re.findall(r"^(\d+) [a-z_]+ ", printed, re.M)] == seqs


def test_a_page_made_from_the_docs_alone_shows_a_run_to_its_end(
    page: Page, browser: Browser, stack: dict[str, str], elsewhere: str
) -> None:
    """The page of docs/how-to/watch-output.md, served from elsewhere, takes the library from the gateway, follows a run
    live and knows its end; every chunk of text is on it once and in order."""
    execution = submit(page)
    context = browser.new_context()
    other = context.new_page()
    other.goto(f"{elsewhere}/page.html?gateway={stack['gateway']}#{execution}")
    expect(other.locator("#state")).to_have_text("connected", timeout=RUN)
    expect(other.locator("#state")).to_have_text("ended", timeout=RUN)
    said = "".join(one["data"] for one in history(stack, execution) if one["type"] in ("text", "stdout"))
    assert other.locator("#output").text_content() == said != ""
    context.close()


def test_a_dead_letter_is_read_sent_again_and_dropped(page: Page, stack: dict[str, str]) -> None:
    """A cancel with a wrong field stands there with its reason and its data; sent again it comes back, for the cause is
    not mended; dropped it is gone for good, of the page and of the gateway."""
    execution = str(uuid.uuid4())
    event = {"specversion": "1.0", "id": "1", "source": "/test", "type": "dev.ocf.task.cancel.v1"}
    body = json.dumps({**event, "data": {"execution_id": execution, "project_id": "default", "wy": "not one of ours"}})
    publish(stack, f"ocf.cmd.cancel.default.{execution}", body.encode())
    page.goto("/#/dead-letters")
    letter = page.locator(".letter")
    letter.get_by_role("button", expanded=False).click(timeout=30 * SECOND)
    expect(letter.locator("pre")).to_contain_text("not one of ours")
    [before] = dead_letters(stack)
    letter.get_by_role("button", name="Send again").click()
    wait_for(page, lambda: [one["seq"] for one in dead_letters(stack)] > [before["seq"]], "it comes back")
    [again] = dead_letters(stack)
    assert (again["subject"], again["reason"]) == (before["subject"], before["reason"])
    expect(letter).to_have_count(1)
    letter.get_by_role("button", name="Drop this event").click()
    page.get_by_role("button", name="Drop it").click()
    expect(page.get_by_text("Nothing was left over")).to_be_visible()
    assert dead_letters(stack) == []


def test_a_dead_letter_that_could_not_be_read_is_shown_without_its_data(page: Page, stack: dict[str, str]) -> None:
    """Its size and hash stand there; it cannot be sent again, and the page does not offer it."""
    publish(stack, f"ocf.cmd.submit.default.{uuid.uuid4()}", b"not one of ours")
    page.goto("/#/dead-letters")
    letter = page.locator(".letter")
    letter.get_by_role("button", expanded=False).click(timeout=30 * SECOND)
    expect(letter.get_by_text("15 bytes that could not be read")).to_be_visible()
    expect(letter.get_by_role("button", name="Send again")).to_have_count(0)
    letter.get_by_role("button", name="Drop this event").click()
    page.get_by_role("button", name="Drop it").click()
    expect(page.get_by_text("Nothing was left over")).to_be_visible()


def test_a_wrong_field_is_named_where_it_stands(page: Page) -> None:
    """The gateway's 422 is shown at the field it is about, in the form, which stays filled in."""
    page.goto("/#/new")
    page.get_by_label("What is to be done?").fill("anything")
    page.get_by_text("Filing").click()
    page.get_by_label("Project").fill("No Such Project!")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".field.wrong")).to_contain_text("Project")
    expect(page.get_by_label("What is to be done?")).to_have_value("anything")


def test_a_gateway_that_is_gone_is_said_so(page: Page) -> None:
    """Cut off, the console says that it is, keeps what it has, and goes on when the gateway is back."""
    execution = submit(page)
    page.goto("/#/")
    expect(page.get_by_role("heading", name="Executions", exact=True)).to_be_visible()  # not the page before it
    expect(page.locator(f".card a[href*='{execution}']").first).to_be_visible(timeout=20 * SECOND)
    page.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached", timeout=20 * SECOND)
    expect(page.locator(f".card a[href*='{execution}']").first).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_have_count(0, timeout=20 * SECOND)


def test_an_event_starts_a_task_by_a_rule_that_was_written_in_the_console(page: Page, stack: dict[str, str]) -> None:
    """Applied, tested, matched: the event names the execution that it started; then the rule is deleted."""
    page.goto("/#/triggers")
    page.get_by_role("button", name="New rule").click()
    rule = {"name": "found", "on": {"type": "org.example.found"}, "task": {"prompt": "Look at {{ event.data.title }}"}}
    page.get_by_label("Rule").fill(json.dumps(rule))
    page.get_by_role("button", name="Apply").click()
    card = page.locator(".card", has_text="org.example.found").first
    card.get_by_role("button", name="Test").click()
    event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "/scan", "type": "org.example.found"}
    page.get_by_label("CloudEvent").fill(json.dumps(event | {"data": {"title": "the lock"}}))
    page.get_by_role("button", name="Test it").click()
    expect(card.get_by_role("status")).to_contain_text("the lock")
    body = json.dumps(event | {"data": {"title": "the door"}}).encode()
    headers = {"Content-Type": "application/cloudevents+json"}
    with urllib.request.urlopen(urllib.request.Request(f"{stack['gateway']}/events", body, headers)) as answer:
        assert answer.status == 202
    expect(page.get_by_role("link", name="found started")).to_be_visible(timeout=RUN)
    page.get_by_label("Delete the rule found").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("No rules")).to_be_visible(timeout=RUN)


@pytest.mark.timeout(900)  # five runs of OpenCode, two of them with a model's pace
def test_the_clients_run_the_tour(page: Page, stack: dict[str, str], tmp_path: Path) -> None:
    """TypeScript, packed and installed into an empty folder: the examples of its page, in Node over HTTP and NATS, and
    a watch in Chromium; its types are those of the schemas. Python: submit, watch, cancel, session, rule, rerun."""
    typescript.install(tmp_path)
    for name in ("client", "backend"):
        example = block("docs/how-to/call-from-typescript.md", f"typescript-{name}")
        (tmp_path / f"{name}.ts").write_text(example)
    (tmp_path / "wrong.ts").write_text(WRONG)
    found = typescript.errors(tmp_path, "client.ts", "backend.ts", "wrong.ts")
    assert [error.partition(",")[0] for error in found] == [f"wrong.ts({line}" for line in (2, 3, 4, 5)]
    places = [stack[name] for name in ("gateway", "nats_ws", "nats_creds")]
    with typescript.started(tmp_path, "backend.js", *places) as backend:
        assert typescript.said(backend, 100)[-1] == "cancelled"
    with typescript.started(tmp_path, "client.js", stack["gateway"]) as tour:
        tour_of_the_python_client(stack["gateway"])
        printed = typescript.said(tour, 500)
    assert printed[0].startswith("1 status ")
    assert "completed" in printed
    again = [line for line in printed if line.startswith("again ")]
    assert again == [*(f"again {seq}" for seq in range(2, len(again) + 1)), "again completed"]
    with Gateway(stack["gateway"], project="web") as gateway:
        newest = next(item for item in gateway.list_tasks()["items"] if item["status"] == "completed")
    page.route("**/client.js", lambda route: route.fulfill(path=typescript.CLIENT / "dist/index.js"))
    page.goto("/")
    watch = """async (id) => { const { Gateway } = await import("/client.js"), seen = [];
        for await (const chunk of new Gateway("", { project: "web" }).watch(id)) seen.push(chunk.seq);
        return seen; }"""
    seen_there = page.evaluate(watch, newest["execution_id"])
    assert seen_there == list(range(1, len(seen_there) + 1)) != []


def tour_of_the_python_client(url: str) -> None:
    """The same with the Python client, in a project of its own."""
    with Gateway(url, project="python") as gateway:
        gateway.put_trigger({"name": "fix", "on": {"type": "a.b"}, "task": {"prompt": "{{ event.data.what }}"}})
        assert [rule["name"] for rule in gateway.list_triggers()] == ["fix"]
        session = gateway.create_session()
        cancelled = gateway.submit(prompt=PROMPT, workspace={"source": "directory", "path": str(ROOT / "demo/repo")})
        gateway.cancel(cancelled)
        first = gateway.submit(prompt="Look around", session_id=session)
        seqs = [chunk["seq"] for chunk in gateway.watch(first)]
        assert seqs == list(range(1, len(seqs) + 1))
        again = gateway.rerun(first)
        assert next(iter(gateway.watch(again, start=2)))["seq"] == 2
        for execution, end in ((first, "completed"), (again, "completed"), (cancelled, "cancelled")):
            list(gateway.watch(execution))  # no chunk at all of one that was cancelled before it started
            assert gateway.status(execution)["status"] == end
        gateway.destroy_session(session)
