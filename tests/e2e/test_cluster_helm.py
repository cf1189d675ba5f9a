"""The Helm chart in a cluster: it takes over what kustomize has installed; an upgrade and a roll-back lose nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import (
    NAMESPACE,
    NEEDS_CLUSTER,
    Cluster,
    built,
    installed_config,
    kubectl,
    pods,
    until,
)
from tests.support.helm import HELM
from tests.support.installation import LOCAL, ROOT, ready, run

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(1200)]
CHART = ROOT / "charts/opencode-functions"
SHORT, SLOW = "Say hello", "Please work slowly"
#: Kustomize's fields belong to kubectl: the chart takes objects and fields over.
OVER = ("--take-ownership", "--force-conflicts")


async def helm(verb: str, *arguments: str) -> str:
    """Run a Helm command for the release `ocf`, and return what it prints."""
    return await run(str(HELM), verb, "ocf", *arguments, "--namespace", NAMESPACE)


async def values(folder: Path) -> Path:
    """Values with the images and settings of the overlay `local`, and none of the chart's own settings."""
    objects = await built("local")
    config = next(one["data"] for one in objects if one["metadata"]["name"].startswith("ocf-config"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    given = {
        "images": {"full": _image(objects, "execute"), "slim": _image(objects, "submit")},
        "config": {**dict.fromkeys(defaults), **config},
        "priorityClasses": {"create": False},
    }
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def _image(objects: list[dict[str, Any]], service: str) -> str:
    [found] = [
        one for one in objects if one["metadata"]["name"] == service and one["apiVersion"] == "serving.knative.dev/v1"
    ]
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


@asynccontextmanager
async def submitting(here: Cluster) -> AsyncIterator[list[str]]:
    """Short executions one after the other while the block lasts, so that a small cluster has room for the new
    revisions beside them; the list grows with their ids."""
    executions: list[str] = []

    async def submit() -> None:
        while True:
            executions.append(await here.client.submit(prompt=SHORT))
            await here.ended(executions[-1])

    task = asyncio.create_task(submit())
    try:
        yield executions
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def log_level() -> str:
    """`LOG_LEVEL` of the installed configuration."""
    name = (await installed_config())["configMapRef"]["name"]
    found: str = json.loads(await kubectl("get", "configmap", name, "-o", "json"))["data"]["LOG_LEVEL"]
    return found


async def test_installed_upgraded_and_rolled_back_under_executions(here: Cluster, tmp_path: Path) -> None:
    """`helm upgrade --install` over the overlay's objects: a task runs from zero. An upgrade that changes a setting
    and a roll-back, each with a slow run in flight and short ones one after the other: every execution completes once,
    in its one attempt, with every chunk. `helm test` reads the gateway's checks."""
    given = str(await values(tmp_path))

    async def at_zero() -> bool:
        return not (await pods("submit") or await pods("execute"))

    try:
        await helm("upgrade", str(CHART), "--install", *OVER, "--values", given)
        await ready()
        await until("submit and execute are at zero", at_zero, 300)
        assert (await here.completed_once(await here.client.submit(prompt=SHORT))).state == "completed"
        assert await log_level() == "info"
        every = []
        for verb, arguments, level in (
            (
                "upgrade",
                (str(CHART), "--force-conflicts", "--values", given, "--set", "config.LOG_LEVEL=debug"),
                "debug",
            ),
            ("rollback", ("1", "--force-conflicts"), "info"),
        ):
            slow = await here.client.submit(prompt=SLOW)
            await here.running(slow)
            async with submitting(here) as short:
                await helm(verb, *arguments)
                await ready()
                assert await log_level() == level
            every += [slow, *short]
        for execution in every:
            await here.completed_once(execution)
        print(f"{len(every)} executions over an upgrade and a roll-back")
        assert '"history":{"ok":true' in (await helm("test", "--logs")).replace(" ", "")
    finally:
        await helm("uninstall", "--ignore-not-found")
        await run("scripts/knative_apply.py", LOCAL)
        await ready()
