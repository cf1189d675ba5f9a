"""A real S3 server (SeaweedFS from its wheel) for one test module, loopback only, gone afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocf.events.adapters.s3 import S3Config
from ocf.stack.ports import allocate
from ocf.stack.seaweedfs_config import WEED_GRPC_PORTS, WEED_PORTS, s3_config, weed_argv

BUCKET = "test"


@contextmanager
def running_weed(directory: Path, timeout: float = 60.0) -> Iterator[S3Config]:
    """Start weed below `directory`, yield how to reach it once it answers S3, kill it at the end."""
    data, config = directory / "data", directory / "s3.json"
    data.mkdir(parents=True)
    keys = secrets.token_hex(8), secrets.token_hex(16)
    config.write_text(s3_config(*keys))
    ports = allocate(WEED_PORTS + WEED_GRPC_PORTS, {}, {})
    argv = weed_argv(Path(sys.executable).parent / "weed", data, config, ports, BUCKET)
    with (directory / "weed.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, cwd=directory)
    try:
        where = S3Config(BUCKET, f"http://127.0.0.1:{ports['s3']}", *keys)
        _wait_until_ready(server, where, time.monotonic() + timeout, directory / "weed.log")
        yield where
    finally:
        # SIGKILL: nothing of it is kept, and its graceful stop takes seconds.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], where: S3Config, deadline: float, log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=where.endpoint_url,
        aws_access_key_id=where.access_key,
        aws_secret_access_key=where.secret_key,
        region_name=where.region,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )
    try:
        while True:
            # Ours must be alive: somebody else's server on that port would answer too.
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"weed did not start: {log.read_text()[-2000:]}")
            try:
                if any(bucket["Name"] == BUCKET for bucket in client.list_buckets()["Buckets"]):
                    client.put_object(Bucket=BUCKET, Key="probe", Body=b"")
                    client.delete_object(Bucket=BUCKET, Key="probe")
                    return
            except (BotoCoreError, ClientError):
                time.sleep(0.1)  # a condition with a deadline: the server says nothing when it is ready
            else:
                time.sleep(0.1)
    finally:
        client.close()
