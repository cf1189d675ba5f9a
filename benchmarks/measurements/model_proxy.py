"""Cost of the model proxy, as rows of benchmarks/model_proxy_latency.py."""

from __future__ import annotations

from benchmarks import model_proxy_latency
from benchmarks.measurement import Options, Row, Target

#: Times of the direct way, or of the bare relay.
_TARGETS = {"request": Target("ratio", 1.5), "chunk": Target("ratio", 2.0)}


async def measure(options: Options) -> list[Row]:
    """Direct and through the model proxy, request by request."""
    found = await model_proxy_latency.main(options.of(20), 5 if options.quick else 50)
    rows = []
    for each in found:
        name = str(each["figure"])
        if "mib" in each:
            rows.append(Row(f"model proxy: {name}", "MiB", [each["mib"]], note=f"over {each['n']} proxies"))
            continue
        for at in ("p50", "p95"):
            ours, direct = float(each[f"proxy_{at}_ms"]), float(each[f"direct_{at}_ms"])
            rows.append(
                Row(
                    f"model proxy: {name}, {at}",
                    "ms",
                    [ours],
                    [direct],
                    str(each["other"]),
                    _TARGETS[name.split()[0]],
                    note=f"of {each['n']}",
                )
            )
    return rows
