"""The Python client: alone in an environment of its own against a real stack, and beside the server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from ocf import AsyncGateway, Gateway
from ocf.events.client.gateway_retry import CallFailed
from tests.integration.test_docs_run import block
from tests.support.stack import Stack, until
from tests.support.wheels import build, run

PAGE = "docs/how-to/call-from-python.md"
LONG = '[[steps]] [{"text": "working"}, {"sleep": 60}]'
_SERVER = ("boto3", "fastapi", "uvicorn", "functions_framework", "sqlalchemy", "typer")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_client_alone_runs_the_example_of_the_page(stack: Stack, tmp_path: Path) -> None:
    """Installed from its wheel it brings no server package, passes `mypy --strict`, and the tour ends completed."""
    build(tmp_path, "clients/python")
    (tmp_path / "tour.py").write_text(block(PAGE, "python-client"))
    script = "python3 -m venv own && own/bin/pip install -q opencode-functions-client && own/bin/pip check"
    run(tmp_path, script, timeout=400)
    missing = f"import importlib.util as i; print([m for m in {_SERVER} if i.find_spec(m)], i.find_spec('ocf.cli'))"
    assert run(tmp_path, f'own/bin/python -c "{missing}"', timeout=60) == "[] None\n"
    mypy = f"{sys.executable} -m mypy --strict --python-executable own/bin/python tour.py"
    assert "Success" in run(tmp_path, mypy, timeout=300)
    said = run(tmp_path, f"own/bin/python tour.py {stack.answer['gateway']}", timeout=120)
    assert "1 status " in said
    assert "\ncompleted\n" in said
    assert "\n+hello\n" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_wrong_field_of_a_task_is_an_error_of_the_type_checker(tmp_path: Path) -> None:
    """The types of a task are those of the schema: an unknown field and a text as number of attempts are refused."""
    wrong = ("from ocf import Gateway as G", 'G("").submit(promt="")', 'G("").submit(retry={"max_attempts": "2"})')
    (tmp_path / "wrong.py").write_text("\n".join(wrong))
    argv = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "wrong.py")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout.count("error:") == 2, done.stdout
    assert 'Unexpected keyword argument "promt"' in done.stdout


async def test_a_watch_resumes_at_a_sequence_and_a_cancel_ends_the_execution(stack: Stack) -> None:
    """The asynchronous client: submit, watch, resume, cancel, list, sessions and rules of one project."""
    async with AsyncGateway(stack.answer["gateway"], project="client-async") as gateway:
        execution = await gateway.submit(prompt=LONG)
        first = []
        async for chunk in gateway.watch(execution):
            first.append(chunk)
            if chunk["data"] == "working":
                break
        await gateway.cancel(execution, why="enough")
        rest = [chunk async for chunk in gateway.watch(execution, start=first[-1]["seq"] + 1)]
        assert [chunk["seq"] for chunk in first + rest] == list(range(1, len(first) + len(rest) + 1))
        status = await gateway.status(execution)
        assert (status["status"], status["cancel_why"]) == ("cancelled", "enough")
        assert [item["execution_id"] for item in (await gateway.list_tasks(limit=5))["items"]] == [execution]
        session = await gateway.create_session(labels={"a": "b"})
        await gateway.attach_session(session, client_id="me")
        await gateway.detach_session(session, client_id="me")
        assert (await gateway.get_session(session))["labels"] == {"a": "b"}
        await gateway.destroy_session(session)

        async def gone() -> bool:
            return all(one["state"] != "open" for one in await gateway.list_sessions())

        await until(gone)
        await gateway.put_trigger({"name": "fix", "on": {"type": "a.b"}, "task": {"prompt": "{{ event.data.what }}"}})
        assert [rule["name"] for rule in await gateway.list_triggers()] == ["fix"]
        event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "a.b", "data": {"what": "Do it"}}
        assert "Do it" in (await gateway.test_trigger("fix", event))["submits"][0]["prompt"]
        await gateway.delete_trigger("fix")
        with pytest.raises(CallFailed, match="no rule fix"):
            await gateway.delete_trigger("fix")


def test_the_blocking_client_reads_downloads_and_may_stop_early(stack: Stack) -> None:
    """It works within a running event loop; a watch that is left early closes its connection; outside it says so."""

    async def within() -> None:
        with Gateway(stack.answer["gateway"], project="client-blocking") as gateway:
            execution = gateway.submit(prompt="Write hello.txt")
            for chunk in gateway.watch(execution):
                assert chunk["seq"] == 1
                break
            assert next(iter(list(gateway.watch(execution, start=3))))["seq"] == 3
            assert b'"seq":1' in b"".join(gateway.download(execution, "output"))
            assert b"+hello" in b"".join(gateway.download(execution, "diff"))
            assert b"dev.ocf.task.submit.v1" in b"".join(gateway.download(execution, "events"))
            again = gateway.rerun(execution, labels={"of": "the first"})
            assert again != execution
            gateway.delete(execution)
        with pytest.raises(RuntimeError, match="use it in a `with` statement"):
            gateway.status(execution)

    asyncio.run(within())
