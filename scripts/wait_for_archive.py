"""Waits for an execution's archive and lists it: `wait_for_archive.py UP.json PROJECT EXECUTION`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from ocf.events.adapters.s3 import S3Config, S3Store

_PATIENCE = 60.0


async def main(up: str, project: str, execution: str) -> int:
    """Exit status: 0 once the manifest, which is written last, is there."""
    where = json.loads(Path(up).read_text())
    keys = where["s3_access_key"], where["s3_secret_key"]
    store = S3Store(S3Config(where["s3_bucket"], where["s3_endpoint"], *keys))
    prefix = f"{project}/{execution}/"
    try:
        async with asyncio.timeout(_PATIENCE):
            while await store.head(f"{prefix}manifest.json") is None:
                await asyncio.sleep(0.1)
        async for item in store.list(prefix):
            sys.stdout.write(f"{item.size:>10,}  {item.key.removeprefix(prefix)}\n")
    except TimeoutError:
        sys.stderr.write(f"not archived within {_PATIENCE:.0f} s\n")
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(*sys.argv[1:])))
