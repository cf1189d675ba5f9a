"""S3 server of the embedded stack: SeaweedFS in one process, loopback only, with keys."""

from __future__ import annotations

import json
from pathlib import Path

from ocf.stack.ports import LOOPBACK

#: Names of its ports. Each has its own number, because the default gRPC ports (port + 10000) may be taken.
WEED_PORTS = ("s3", "weed_master", "weed_volume", "weed_filer")
#: `weed_admin` listens even with its pages off, and its worker always expects gRPC at port + 10000.
WEED_GRPC_PORTS = (*(f"{name}_grpc" for name in WEED_PORTS), "weed_admin")


def s3_config(access_key: str, secret_key: str) -> str:
    """Return the identities file with one identity that may do everything."""
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return json.dumps({"identities": [{"name": "ocf", "credentials": credentials, "actions": actions}]})


def weed_argv(binary: Path, data: Path, config: Path, ports: dict[str, int], bucket: str) -> tuple[str, ...]:
    """Return the command line. Both ip flags are needed: without them it binds to every address."""
    listen = [
        f"-{name.removeprefix('weed_')}.port{suffix}={ports[name + ('_grpc' if suffix else '')]}"
        for name in WEED_PORTS
        for suffix in ("", ".grpc")
    ]
    return (
        str(binary),
        # Otherwise it leaves a log file in /tmp with every start.
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-s3.config={config}",
        f"-bucket={bucket}",
        *listen,
        f"-admin.port={ports['weed_admin']}",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        # Its Unix sockets would be in /tmp, readable by every user.
        f"-filer.localSocket={data}/filer.sock",
        f"-s3.localSocket={data}/s3.sock",
        "-s3.iam=false",
        "-volume.preStopSeconds=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
    )
