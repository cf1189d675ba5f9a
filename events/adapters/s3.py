"""`ocf.events.ports.ObjectStore` on any S3-compatible endpoint. Only this file imports boto3.

boto3 blocks, so each call runs in the store's own small thread pool. boto3 is imported at the first call, because the
import costs 0.3 s and 30 MB, which a function without stored objects should not pay.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import importlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from ocf.events.errors import NotYetKnown, Unavailable
from ocf.events.ports import ObjectInfo

#: Size of an upload part in bytes. S3 allows 10,000 parts, so an object may have up to 78 GiB.
PART_BYTES = 8 * 1024 * 1024
#: Concurrent parts; fewer than the threads, so that an upload does not block all other calls.
PARTS_IN_FLIGHT = 6
#: Resumes of a broken download.
RESUMES = 3
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})

T = TypeVar("T")
_Part = dict[str, Any]


@dataclass(frozen=True)
class S3Config:
    """Bucket, endpoint and credentials. Without keys boto3's default chain applies (instance role, web identity)."""

    bucket: str
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    region: str = "us-east-1"
    threads: int = 8


class S3Store:
    """Objects in one bucket. See `ocf.events.ports.ObjectStore`.

    The SHA-256 of an object is stored as metadata, and checked when the whole object is read.

    Every method raises NotYetKnown for a missing object and Unavailable for every other failure, after botocore's own
    retries (4 attempts in all).
    """

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="s3")
        self._made: Any = None
        self._making = asyncio.Lock()

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Implement `ObjectStore.put`."""
        digest = hashlib.sha256(data).hexdigest()
        await self._call("put_object", key, Key=key, Body=data, ContentType=content_type, Metadata={"sha256": digest})
        return ObjectInfo(key, len(data), digest)

    async def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Upload a file in parts, with constant memory.

        Reads the file twice, because S3 takes metadata only at the start of an upload.

        Raises:
            Unavailable: The store failed, or the file changed during the upload. Nothing is stored then.
        """
        before = await self._run(lambda: path.stat())
        size = before.st_size
        if size <= PART_BYTES:
            return await self.put(key, await self._run(path.read_bytes), content_type=content_type)
        digest = await self._run(partial(_file_digest, path))
        upload = await self._call(
            "create_multipart_upload", key, Key=key, ContentType=content_type, Metadata={"sha256": digest}
        )
        upload_id: str = upload["UploadId"]
        try:
            parts = await self._upload_parts(key, upload_id, path, size)
            after = await self._run(lambda: path.stat())
            if (after.st_size, after.st_mtime_ns, after.st_ino) != (size, before.st_mtime_ns, before.st_ino):
                raise Unavailable(f"{path.name} changed while it was uploaded to {key!r}")
            await self._call(
                "complete_multipart_upload", key, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            # Also on cancellation: the parts of an unfinished upload cost money for ever.
            await asyncio.shield(self._call("abort_multipart_upload", key, Key=key, UploadId=upload_id))
            raise
        return ObjectInfo(key, size, digest)

    async def get(self, key: str) -> bytes:
        """Implement `ObjectStore.get`."""
        return b"".join([piece async for piece in self.stream(key)])

    async def stream(self, key: str, *, chunk: int = 1024 * 1024) -> AsyncIterator[bytes]:
        """Yield the object in pieces; resume a broken connection at the same byte of the same version.

        Raises:
            Unavailable: The store failed, or (after the last piece) the bytes do not match the stored SHA-256.
        """
        answer = await self._call("get_object", key, Key=key)
        expected: str | None = answer["Metadata"].get("sha256")
        size, etag, seen, digest = int(answer["ContentLength"]), answer["ETag"], 0, hashlib.sha256()
        body, resumes = answer["Body"], 0
        try:
            while seen < size:
                try:
                    piece: bytes = await self._run(partial(body.read, chunk))
                except _botocore().HTTPClientError as error:
                    piece, reason = b"", str(error)
                else:
                    reason = "the connection ended early"
                if not piece:
                    resumes += 1
                    if resumes > RESUMES:
                        raise Unavailable(f"object {key!r} stopped at byte {seen} of {size}: {reason}")
                    body.close()
                    body = (await self._call("get_object", key, Key=key, Range=f"bytes={seen}-", IfMatch=etag))["Body"]
                    continue
                seen += len(piece)
                digest.update(piece)
                yield piece
        finally:
            body.close()
        if expected and expected != digest.hexdigest():
            raise Unavailable(f"object {key!r} is damaged: SHA-256 {digest.hexdigest()}, stored as {expected}")

    async def head(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.head`."""
        try:
            answer = await self._call("head_object", key, Key=key)
        except NotYetKnown:
            return None
        return ObjectInfo(key, int(answer["ContentLength"]), answer["Metadata"].get("sha256"))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects below `prefix` in key order, without `sha256`, which S3 does not list."""
        async for page in self._pages("list_objects_v2", prefix, "ContinuationToken", "NextContinuationToken"):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], int(item["Size"]), modified=item["LastModified"])

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all objects and unfinished uploads below `prefix`; return the number of objects.

        Raises:
            ValueError: The prefix is empty, which would empty the bucket.
        """
        if not prefix:
            raise ValueError("an empty prefix would remove every object")
        keys = [info.key async for info in self.list(prefix)]
        for start in range(0, len(keys), 1000):
            batch = [{"Key": key} for key in keys[start : start + 1000]]
            answer = await self._call("delete_objects", prefix, Delete={"Objects": batch, "Quiet": True})
            if errors := answer.get("Errors"):
                reason = errors[0].get("Message")
                raise Unavailable(f"{len(errors)} objects below {prefix!r} were not removed: {reason}")
        async for page in self._pages("list_multipart_uploads", prefix, "KeyMarker", "NextKeyMarker"):
            for item in page.get("Uploads", ()):
                if item["Key"].startswith(prefix):
                    await self._call("abort_multipart_upload", item["Key"], Key=item["Key"], UploadId=item["UploadId"])
        return len(keys)

    async def ready(self) -> None:
        """Implement `ObjectStore.ready`."""
        try:
            await self._call("head_bucket", "")
        except NotYetKnown:
            raise Unavailable(f"bucket {self._config.bucket!r} does not exist") from None

    async def create_bucket(self) -> None:
        """Create the bucket unless it exists (setup of the embedded stack and of tests)."""
        try:
            await self._call("head_bucket", "")
        except NotYetKnown:
            await self._call("create_bucket", "")

    def close(self) -> None:
        """Close the connections and stop the threads; pending calls fail."""
        if self._made is not None:
            self._made.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _upload_parts(self, key: str, upload_id: str, path: Path, size: int) -> Sequence[_Part]:
        waiting = deque(range(0, size, PART_BYTES))
        done: builtins.list[_Part] = []

        async def take_parts() -> None:
            while waiting:
                done.append(await self._upload_part(key, upload_id, path, waiting.popleft()))

        takers = [asyncio.create_task(take_parts()) for _ in range(PARTS_IN_FLIGHT)]
        try:
            await asyncio.wait(takers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            waiting.clear()
            # Wait instead of cancelling: a part that arrives after the abort would stay for ever.
            await asyncio.shield(asyncio.wait(takers))
        for taker in takers:
            taker.result()
        return sorted(done, key=lambda part: int(part["PartNumber"]))

    async def _upload_part(self, key: str, upload_id: str, path: Path, start: int) -> _Part:
        number = start // PART_BYTES + 1
        # Reads the file while it sends, so that a part takes no memory.
        body = await self._run(lambda: _transfer().ReadFileChunk.from_filename(str(path), start, PART_BYTES))
        try:
            answer = await self._call("upload_part", key, Key=key, UploadId=upload_id, PartNumber=number, Body=body)
        finally:
            body.close()
        return {"PartNumber": number, "ETag": answer["ETag"]}

    async def _pages(self, method: str, prefix: str, ask: str, answered: str) -> AsyncIterator[Any]:
        more: dict[str, Any] = {}
        while True:
            page = await self._call(method, prefix, Prefix=prefix, **more)
            yield page
            if not page.get("IsTruncated") or not page.get(answered):
                return
            more = {ask: page[answered]}
            if "NextUploadIdMarker" in page:
                more["UploadIdMarker"] = page["NextUploadIdMarker"]

    async def _call(self, method: str, what: str, **arguments: Any) -> Any:  # noqa: ANN401 - boto3 has no types
        async with self._making:
            if self._made is None:
                self._made = await self._run(self._connect)
        botocore = _botocore()
        try:
            return await self._run(partial(getattr(self._made, method), Bucket=self._config.bucket, **arguments))
        except botocore.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise NotYetKnown(f"no object {what!r}") from None
            raise Unavailable(f"S3 {method} {what!r}: {error}") from error
        except botocore.BotoCoreError as error:
            raise Unavailable(f"S3 {method} {what!r}: {error}") from error

    def _connect(self) -> Any:  # noqa: ANN401 - boto3 has no types
        config = importlib.import_module("botocore.config").Config(
            connect_timeout=3,
            read_timeout=60,
            max_pool_connections=self._config.threads,
            retries={"mode": "standard", "total_max_attempts": 4},
            s3={"addressing_style": "path"},
            # Several S3-compatible stores refuse boto3's newer default, a CRC trailer on every request. The stored
            # SHA-256 detects the same damage end to end.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = importlib.import_module("boto3").session.Session(
            botocore_session=_session(),
            aws_access_key_id=self._config.access_key,
            aws_secret_access_key=self._config.secret_key,
            aws_session_token=self._config.session_token,
            region_name=self._config.region,
        )
        return session.client("s3", endpoint_url=self._config.endpoint_url, config=config)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


@cache
def _loader() -> Any:  # noqa: ANN401 - botocore has no types
    return importlib.import_module("botocore.loaders").Loader()


def _session() -> Any:  # noqa: ANN401 - botocore has no types
    """Return a botocore session that shares the one loaded copy of the S3 service model (14 MiB, 0.1 s)."""
    session = importlib.import_module("botocore.session").Session()
    session.register_component("data_loader", _loader())
    return session


def preload() -> None:
    """Load the modules and data of an S3 client, so that forks of this process share them."""
    _session().create_client("s3", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106


def _botocore() -> Any:  # noqa: ANN401 - botocore has no types
    return importlib.import_module("botocore.exceptions")


def _transfer() -> Any:  # noqa: ANN401 - s3transfer has no types
    return importlib.import_module("s3transfer.utils")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
