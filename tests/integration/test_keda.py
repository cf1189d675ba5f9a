"""The example of `knative/keda`: files by the schemas of Kubernetes and KEDA, worker and lag on a real NATS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2
import yaml

from ocf.events.adapters.nats.bus import connect
from scripts.knative_check import KEDA_SCHEMAS, ROOT, known_schemas, mistakes
from tests.support.nats import PORTS, NatsServer

FOLDER = ROOT / "knative/keda"
MANIFESTS = [
    one
    for path in FOLDER.glob("*.yaml")
    if path.stem != "kustomization"
    for one in yaml.safe_load_all(path.read_text())
]
[TRIGGER] = next(one for one in MANIFESTS if one["kind"] == "ScaledObject")["spec"]["triggers"]


def test_the_files_are_valid_and_name_what_the_scaler_reads() -> None:
    """By the CRD and the scaler of KEDA's own release; a misspelt field is found."""
    known = known_schemas()
    assert sorted(one["kind"] for one in MANIFESTS) == [
        "Deployment",
        "Job",
        "NetworkPolicy",
        "NetworkPolicy",
        "ScaledObject",
    ]
    assert [list(mistakes(one, known)) for one in MANIFESTS] == [[]] * 5
    scaled = next(one for one in MANIFESTS if one["kind"] == "ScaledObject")
    wrong = {**scaled, "spec": {**scaled["spec"], "minReplicas": 0}}
    assert ["minReplicas" in said for said in mistakes(wrong, known)] == [True]
    scaler = json.loads(KEDA_SCHEMAS.read_text())["nats-jetstream"]
    assert set(scaler["required"]) <= set(TRIGGER["metadata"]) <= set(scaler["names"])


async def test_the_worker_takes_the_facts_that_the_scaler_counts(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """The consumer is there before the first worker; its lag is the facts that wait; SIGTERM ends an idle worker."""
    server, port = own_nats_server, next(PORTS)
    server.kill()
    with (server.directory / "nats.conf").open("a") as config:
        config.write(f"\nhttp: 127.0.0.1:{port}\n")
    server.start()
    shutil.copy(FOLDER / "example_worker.py", tmp_path)
    environ = {"PATH": os.environ["PATH"], "NATS_URL": server.url, "NATS_CREDS": str(server.backend_creds)}

    async def worker(*words: str) -> asyncio.subprocess.Process:
        argv = (sys.executable, "example_worker.py", *words)
        return await asyncio.create_subprocess_exec(*argv, cwd=tmp_path, env=environ, stdout=asyncio.subprocess.PIPE)

    assert await (await worker("create")).wait() == 0
    bus = await connect(server.url, creds=server.creds, name="test")
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as monitor:

        async def lag() -> int:
            asked = {"acc": server.account, "consumers": "true", "config": "true"}
            found: dict[str, Any] = (await monitor.get("/jsz", params=asked)).json()
            [account] = found["account_details"]
            assert (account["name"], account["id"]) == ("OCF", server.account)
            streams = {stream["name"]: stream.get("consumer_detail", []) for stream in account["stream_detail"]}
            consumers = {one["name"]: one for one in streams[TRIGGER["metadata"]["stream"]]}
            one = consumers[TRIGGER["metadata"]["consumer"]]
            return int(one["num_pending"] + one["num_ack_pending"])

        assert await lag() == 0
        for what in ("accepted", "completed", "completed"):
            fact = json.dumps({"id": what, "subject": "x"}).encode()
            await bus.publish(f"ocf.evt.p.e.{what}", fact, {"Content-Type": "application/cloudevents+json"})
        await bus.close()
        assert await lag() == 2
        running = await worker()
        assert running.stdout is not None
        assert [(await running.stdout.readline()).split() for _ in range(2)] == [[b"completed", b"x"]] * 2
        async with asyncio.timeout(10):
            while await lag():
                await asyncio.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0
