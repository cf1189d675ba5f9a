"""The console of a gateway that asks who one is: tokens that are wrong, of another project, or at their end."""

from __future__ import annotations

import base64
import json
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import nkeys
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.console import CHROMIUM, SECOND, build, essence, pill, seen
from tests.support.gateway import SECRET, token
from tests.support.stack import Stack, running_stack

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (or CHROMIUM=PATH)"),
    pytest.mark.timeout(240),
]

STEPS = [
    {"text": "said before the question"},
    {"question": {"question": "Go on?", "options": ["yes"]}},
    {"text": "yes"},
]
LONG = 60 * SECOND
#: Subscribes as a viewer of one execution to another subject; what the server says to it.
SPY = """
async ({url, jwt, subject}) => new Promise((done, failed) => {
  const socket = new WebSocket(url)
  const said = []
  const bytes = (text) => new TextEncoder().encode(text)
  socket.onclose = () => done(said.join(""))
  socket.onerror = () => failed(new Error("closed"))
  socket.onmessage = async ({data}) => {
    const text = await new Response(data).text()
    said.push(text)
    if (text.startsWith("INFO ")) {
      const sig = await window.sign(JSON.parse(text.slice(5, text.indexOf("\\r\\n"))).nonce)
      socket.send(bytes(`CONNECT ${JSON.stringify({verbose: false, pedantic: false, jwt, sig})}\\r\\n`))
      socket.send(bytes(`SUB ${subject} 1\\r\\nPING\\r\\n`))
    } else if (said.join("").includes("PONG")) socket.close()
  }
})
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose gateway checks tokens."""
    build()
    with running_stack(tmp_path_factory.mktemp("secured") / "data", GATEWAY_JWT_SECRET=SECRET) as found:
        yield found


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=stack.answer["gateway"])
    yield context.new_page()
    context.close()


@pytest.fixture
def projects() -> tuple[str, str]:
    """Two that nobody else uses."""
    return f"a-{uuid.uuid4().hex[:12]}", f"b-{uuid.uuid4().hex[:12]}"


def call(stack: Stack, path: str, bearer: str, body: Any = None, method: str = "POST") -> Any:
    """A call of the gateway; its answer's JSON, or of lines of it."""
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(stack.answer["gateway"] + path, data, headers, method=method)
    with urllib.request.urlopen(asked) as answer:
        text = answer.read().decode()
    return [json.loads(line) for line in text.splitlines()] if "ndjson" in path else json.loads(text)


def submit(stack: Stack, project: str) -> str:
    body = {
        "prompt": f"[[steps]] {json.dumps(STEPS)}",
        "project_id": project,
        "limits": {"answer_seconds": 120},
    }
    execution: str = call(stack, "/tasks/execute", token([project]), body)["execution_id"]
    return execution


def give(page: Page, bearer: str) -> None:
    """Type a token into the dialog."""
    page.get_by_label("Bearer token").fill(bearer)
    page.get_by_role("button", name="Continue").click()


def test_a_token_shows_its_own_projects_and_nothing_else(page: Page, stack: Stack, projects: tuple[str, str]) -> None:
    """Without a token the console asks for one; a wrong one is refused with the reason. With a token of another project
    an execution is not in the list, not found by its address, and its live subject is refused to the viewer's own
    connection from the browser. With the right one it is there, and what was typed meanwhile is kept."""
    mine, other = projects
    execution, foreign = submit(stack, mine), submit(stack, other)
    page.goto("/#/")
    expect(page.get_by_role("dialog")).to_contain_text("This gateway asks who you are")
    give(page, "not.a.token")
    expect(page.get_by_role("dialog")).to_contain_text("The gateway says: the token is not accepted")

    give(page, token([other]))
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".card")).to_have_count(1)
    page.goto(f"/#/tasks/{execution}")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    viewer = call(stack, f"/tasks/{foreign}/token", token([other]))
    seed = bytearray(viewer["seed"].encode())

    def sign(nonce: str) -> str:
        return base64.urlsafe_b64encode(nkeys.from_seed(seed).sign(nonce.encode())).decode().rstrip("=")

    page.expose_function("sign", sign)
    for subject, refused in ((f"ocf.live.{mine}.{execution}", True), (viewer["subject"], False)):
        said = page.evaluate(SPY, {"url": viewer["nats_ws"], "jwt": viewer["jwt"], "subject": subject})
        assert ("Permissions Violation" in said) is refused, said

    page.goto("/#/new")
    page.get_by_label("What is to be done?").fill("typed before")
    page.get_by_role("button", name="Change token").click()
    page.get_by_text("Filing").click()
    page.get_by_label("Project").fill(mine)
    page.get_by_role("button", name="Run", exact=True).click()
    give(page, token([mine]))
    expect(page.get_by_label("What is to be done?")).to_have_value("typed before")
    page.goto(f"/#/tasks/{execution}")
    expect(page.locator(".transcript")).to_contain_text("said before the question", timeout=LONG)


def test_an_expired_token_is_asked_for_anew_and_nothing_is_lost(
    page: Page, stack: Stack, projects: tuple[str, str]
) -> None:
    """In mid-run the caller's own token expires: the console says so and asks. With the next one it goes on, to the
    end, with every chunk once."""
    mine, _ = projects
    execution = submit(stack, mine)
    page.goto(f"/#/tasks/{execution}")
    give(page, token([mine], ttl=5))
    expect(page.locator(".transcript")).to_contain_text("said before the question", timeout=LONG)
    expect(page.get_by_role("dialog")).to_contain_text("the token has expired", timeout=LONG)
    fresh = token([mine])
    give(page, fresh)
    expect(pill(page)).to_contain_text("Live", timeout=LONG)
    page.get_by_role("button", name="yes", exact=True).click(timeout=LONG)
    expect(pill(page)).to_contain_text("Complete", timeout=LONG)
    said = call(stack, f"/tasks/{execution}/output?format=ndjson", fresh, method="GET")
    assert [chunk["seq"] for chunk in said] == list(range(1, len(said) + 1))
    assert essence(seen(page)) == essence(said)
