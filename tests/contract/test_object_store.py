"""One suite for `ocf.events.ports.ObjectStore`: the in-memory adapter and the S3 one against a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.adapters.s3 import PART_BYTES, S3Config, S3Store
from ocf.events.errors import NotYetKnown, Unavailable
from ocf.events.ports import ObjectStore
from tests.support.weed import running_weed


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Config]:
    with running_weed(tmp_path_factory.mktemp("weed")) as where:
        yield where


@pytest.fixture(params=["memory", "s3"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    real = S3Store(request.getfixturevalue("s3"))
    yield real
    real.close()


@pytest.fixture
def prefix() -> str:
    return f"project/{uuid.uuid4()}/"


async def test_put_and_get(store: ObjectStore, prefix: str) -> None:
    """What is put is what is read, and its size and SHA-256 are known to put and head alike."""
    info = await store.put(prefix + "manifest.json", b'{"a":1}', content_type="application/json")
    assert info.size == 7
    assert info.sha256 == hashlib.sha256(b'{"a":1}').hexdigest()
    assert await store.get(prefix + "manifest.json") == b'{"a":1}'
    assert await store.head(prefix + "manifest.json") == info


async def test_put_replaces(store: ObjectStore, prefix: str) -> None:
    """A second put of a key wins whole, digest included."""
    await store.put(prefix + "a", b"first")
    second = await store.put(prefix + "a", b"second")
    assert await store.get(prefix + "a") == b"second"
    assert await store.head(prefix + "a") == second


async def test_empty_object(store: ObjectStore, prefix: str) -> None:
    """Zero bytes are an object too."""
    await store.put(prefix + "empty", b"")
    assert await store.get(prefix + "empty") == b""
    assert [piece async for piece in store.stream(prefix + "empty")] == []


async def test_missing_object(store: ObjectStore, prefix: str) -> None:
    """Reading what is not there raises NotYetKnown; head says None."""
    assert await store.head(prefix + "none") is None
    with pytest.raises(NotYetKnown, match="none"):
        await store.get(prefix + "none")
    with pytest.raises(NotYetKnown):
        await anext(aiter(store.stream(prefix + "none")))


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, 2 * PART_BYTES + 5])
async def test_put_file(store: ObjectStore, prefix: str, tmp_path: Path, size: int) -> None:
    """A file below, at and above the part size arrives byte for byte, with the digest of the whole."""
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    info = await store.put_file(prefix + "file", path)
    assert (info.size, info.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert await store.head(prefix + "file") == info
    digest = hashlib.sha256()
    async for piece in store.stream(prefix + "file", chunk=300_000):
        assert len(piece) <= 300_000
        digest.update(piece)
    assert digest.hexdigest() == info.sha256


async def test_list_and_delete_prefix(store: ObjectStore, prefix: str) -> None:
    """list gives exactly what is below the prefix, in key order; delete_prefix removes exactly that."""
    names = ["b", "a/1", "a/2", "sp ace", "ünï", "a+b%20?&="]
    for name in names:
        await store.put(prefix + name, name.encode())
    await store.put(prefix[:-1] + "x/other", b"neighbour")
    listed = [info async for info in store.list(prefix)]
    assert sorted(info.key for info in listed) == sorted(prefix + name for name in names)
    assert {info.key: info.size for info in listed} == {prefix + name: len(name.encode()) for name in names}
    assert await store.delete_prefix(prefix) == len(names)
    assert [info async for info in store.list(prefix)] == []
    assert await store.delete_prefix(prefix) == 0
    assert await store.get(prefix[:-1] + "x/other") == b"neighbour"


async def test_empty_prefix_is_refused(store: ObjectStore) -> None:
    """delete_prefix("") would empty the bucket, so it is an error."""
    with pytest.raises(ValueError, match="empty prefix"):
        await store.delete_prefix("")


async def test_more_than_a_page(store: ObjectStore, prefix: str) -> None:
    """Listing and deleting go on after S3's page of 1,000 objects."""
    gate = asyncio.Semaphore(16)

    async def put(number: int) -> None:
        async with gate:
            await store.put(f"{prefix}{number:04}", b"x")

    await asyncio.gather(*(put(number) for number in range(1010)))
    assert len([info async for info in store.list(prefix)]) == 1010
    assert await store.delete_prefix(prefix) == 1010


async def test_ready(store: ObjectStore) -> None:
    """A store that answers is ready."""
    await store.ready()


async def test_not_ready(s3: S3Config) -> None:
    """No such bucket, wrong keys or nobody listening: Unavailable, within seconds."""
    wrong = (replace(s3, bucket="absent"), replace(s3, secret_key="no"), replace(s3, endpoint_url="http://127.0.0.1:1"))
    for config in wrong:
        store = S3Store(config)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(store.ready(), 20)
        store.close()


async def test_cancelled_upload_leaves_nothing(s3: S3Config, prefix: str, tmp_path: Path) -> None:
    """Cancelling put_file in the middle aborts the multipart upload: no object and no parts stay."""
    store = S3Store(s3)
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(20 * PART_BYTES)
    first_part = asyncio.Event()
    upload_part = store._upload_part

    async def noticed(*args: object) -> object:
        first_part.set()
        return await upload_part(*args)  # type: ignore[arg-type]

    store._upload_part = noticed  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(store.put_file(prefix + "big", path))
    await first_part.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.head(prefix + "big") is None
    uploads = await store._call("list_multipart_uploads", prefix, Prefix=prefix)
    assert not uploads.get("Uploads")
    store.close()


async def test_damage_is_noticed(s3: S3Config, prefix: str) -> None:
    """Bytes that are not those of the stored digest are refused after the last piece."""
    store = S3Store(s3)
    await store._call("put_object", "x", Key=prefix + "x", Body=b"bytes", Metadata={"sha256": "0" * 64})
    with pytest.raises(Unavailable, match="damaged"):
        await store.get(prefix + "x")
    store.close()
