"""Whether in S3 lies exactly what a manifest or a record names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def wrong_objects(objects: Mapping[str, bytes], named: Iterable[Mapping[str, Any]], by: str) -> Iterator[str]:
    """What is there and not named, named and not there, or of another size or digest. `by`: who names them."""
    artifacts = {artifact["name"]: artifact for artifact in named}
    if extra := sorted(set(objects) - set(artifacts)):
        yield f"objects that {by} does not name: {extra}"
    for name, artifact in artifacts.items():
        content = objects.get(name)
        if content is None:
            yield f"{name} is named and not there"
        elif (len(content), hashlib.sha256(content).hexdigest()) != (artifact["size"], artifact["sha256"]):
            yield f"{name} is not what {by} names"
