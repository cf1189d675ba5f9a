"""Bundles: what leaves has no secret and arrives whole; what comes from a stranger is checked before it is stored."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ocf.events.base_model import Sealed
from ocf.events.command_payloads import Execute
from ocf.events.envelope import Event, of_line
from ocf.events.execution_ref import ExecutionRef
from ocf.events.input_manifest import ExecutionInput
from ocf.events.lifecycle import State
from ocf.events.output import Usage
from ocf.functions.core.object_deletion import delete_execution
from ocf.functions.gateway.bundles import importing
from ocf.functions.gateway.bundles.tar_format import LIMITS
from ocf.functions.recording.line_types import Head, frame
from ocf.functions.workspace import tree_digest
from ocf.functions.workspace.threads import in_thread
from tests.support.gateway import ID, World, chunk

SECRET = {"alg": "A256GCM", "kid": "k1", "nonce": "bm9uY2Vub25jZQ==", "ciphertext": "c2VjcmV0LXBsYW50ZWQ="}
TAR = {"Content-Type": "application/x-tar"}
Objects = dict[str, bytes]


def tree(*entries: tarfile.TarInfo, git_object: bytes = b"") -> bytes:
    """A tree with one file, and with further entries; with `git_object` that of a clone."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
        for entry in entries:
            tar.addfile(entry)
        if git_object:
            for name in (".git", ".git/objects", ".git/objects/ab"):
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            info = tarfile.TarInfo(".git/objects/ab/cd")
            info.size = len(git_object)
            tar.addfile(info, io.BytesIO(git_object))
    return zstandard.ZstdCompressor().compress(plain.getvalue())


async def world(folder: Path, packed: bytes | None = None, *, clone: bool = False) -> World:
    """A gateway with one archived execution that has everything."""
    made = World()
    now = made.clock.now()
    packed = packed or tree()
    (folder / "t").write_bytes(packed)
    digest = await in_thread(lambda stop: tree_digest(folder / "t", importing._TREE, stop, clone=clone))
    record = await made.record(
        state=State.COMPLETED, started_at=now, ended_at=now, last_sequence=1, archived=True, title="hello",
        usage=Usage(requests=1, input_tokens=5, cost_usd=3.0), message="\x1b]0;evil\x07",
    )  # fmt: skip
    kept = json.loads(record.model_dump_json(exclude_defaults=True))
    model = {"provider": "openai", "model": "m", "api_key": Sealed.model_validate(SECRET)}
    ids = {"execution_id": ID, "project_id": "default"}
    data = Execute.model_validate({**ids, "prompt": "p", "model_config": model, "submitted_at": now})
    event = Event("dev.ocf.task.execute.v1", "/test", "1", now, data.model_dump_json(by_alias=True).encode(), ID)
    given = ExecutionInput(tree=digest, clone=clone, conversation=hashlib.sha256(b"{}").hexdigest())
    objects: Objects = {
        "manifest.json": json.dumps({"version": 1, **ids, "objects": [], "record": kept}).encode(),
        "events.ndjson": event.line() + b"\n",
        "input.json": given.model_dump_json().encode(),
        "input-conversation.json": b"{}",
        "model.ndjson.zst": frame(Head(attempt=1, key="0" * 64, holds="answers")),
        "output.ndjson.gz": gzip.compress(chunk(1, now, "said") + b"\n"),
        "workspace.patch": b"",
        "workspace.tar.zst": b"not part of a bundle",
    }
    for name, content in objects.items():
        await made.store.put(f"default/{ID}/{name}", content)
    await made.store.put(f"default/inputs/{digest}.tar.zst", packed)
    await made.store.put(f"default/inputs/{digest}.users/{ID}", b"{}")
    return made


async def exported(made: World) -> bytes:
    answer = await made.client.get(f"/tasks/{ID}/bundle")
    assert answer.status_code == 200, answer.text
    return answer.content


def unpacked(bundle: bytes) -> Objects:
    """Read by Python's own tarfile."""
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar.getmembers()}  # type: ignore[union-attr]


def packed(objects: Objects, *, index: Callable[[dict[str, Any]], None] = lambda _: None) -> bytes:
    """A bundle of these objects, whose index is right apart from what `index` changes."""
    about = json.loads(objects["bundle.json"])
    names = [name for name in objects if name != "bundle.json"]
    about["objects"] = [
        {"name": name, "size": len(objects[name]), "sha256": hashlib.sha256(objects[name]).hexdigest()}
        for name in names
    ]
    index(about)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in {"bundle.json": json.dumps(about).encode(), **{n: objects[n] for n in names}}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def taken(made: World, bundle: bytes, project: str = "other") -> Any:
    return await made.client.post(f"/bundles?project_id={project}", content=bundle, headers=TAR)


async def test_a_bundle_arrives_whole_under_a_new_id_and_without_secrets(tmp_path: Path) -> None:
    """Its status, output and events work as those of any archived execution; its costs are no costs of the project."""
    made = await world(tmp_path)
    bundle = await exported(made)
    assert SECRET["ciphertext"].encode() not in bundle
    assert set(unpacked(bundle)) == {
        "bundle.json", "manifest.json", "events.ndjson", "input.json", "input-conversation.json", "model.ndjson.zst",
        "output.ndjson.gz", "workspace.patch", "input.tar.zst",
    }  # fmt: skip
    answer = await taken(made, bundle)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["project_id"], found["imported_from"]) == ("other", f"default/{ID}")
    new = found["execution_id"]
    assert new != ID
    status = (await made.client.get(f"/tasks/{new}/status")).json()
    assert (status["status"], status["project_id"], status["archived"]) == ("completed", "other", True)
    assert status["imported_from"] == f"default/{ID}"
    assert "said" in (await made.client.get(f"/tasks/{new}/output?format=text")).text
    events = [json.loads(line) for line in (await made.client.get(f"/tasks/{new}/events")).text.splitlines()]
    assert [(event["data"]["execution_id"], event["data"]["project_id"]) for event in events] == [(new, "other")]
    execute = Execute.model_validate(events[0]["data"])
    assert execute.model is not None
    assert execute.model.api_key is not None
    assert execute.model.api_key.ciphertext == ""
    listed = (await made.client.get("/tasks?project_id=other")).json()["items"]
    assert [(item["execution_id"], item["usage"]["cost_usd"]) for item in listed] == [(new, 0)]
    assert (await made.client.get(f"/tasks/{new}/compare/{new}")).json()["a"]["usage"]["cost_usd"] == 3.0
    digest = ExecutionInput.read(made.store.objects[f"other/{new}/input.json"]).tree
    assert made.store.objects[f"other/inputs/{digest}.tar.zst"] == tree()
    assert (await made.client.get(f"/tasks/{new}/bundle")).status_code == 200
    await delete_execution(made.store, ExecutionRef("other", new))
    assert not [key for key in made.store.objects if key.startswith("other/")]


async def test_an_event_whose_data_has_line_breaks_leaves_without_secrets_and_arrives(tmp_path: Path) -> None:
    """Its line in the archive has the data as base64, in which no secret can be seen."""
    made = await world(tmp_path)
    key = f"default/{ID}/events.ndjson"
    event = of_line(made.store.objects[key].strip())
    await made.store.put(key, replace(event, data=json.dumps(json.loads(event.data), indent=1).encode()).line() + b"\n")
    assert b"data_base64" in made.store.objects[key]
    bundle = await exported(made)
    (line,) = unpacked(bundle)["events.ndjson"].splitlines()
    assert json.loads(line)["data"]["model_config"]["api_key"]["ciphertext"] == ""
    assert (await taken(made, bundle)).status_code == 201


def changed(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Objects], bytes]:
    def change(objects: Objects) -> bytes:
        new = content if isinstance(content, bytes) else content(objects[name])
        return packed({**objects, name: new})

    return change


def record(**fields: Any) -> Callable[[bytes], bytes]:
    def change(manifest: bytes) -> bytes:
        found = json.loads(manifest)
        found["record"] |= fields
        return json.dumps(found).encode()

    return change


def with_header(objects: Objects, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """The patch has another header in the tar than the index says."""
    out = io.BytesIO(packed(objects))
    with tarfile.open(fileobj=out) as tar:
        at = tar.getmember("workspace.patch").offset
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    data = bytearray(out.getvalue())
    data[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)
    return bytes(data)


def huge(objects: Objects) -> bytes:
    return packed(objects, index=lambda about: about["objects"][0].update(size=10**12))


def of(field: str, value: object) -> Callable[[Objects], bytes]:
    return lambda objects: packed(objects, index=lambda about: about.update({field: value}))


def bomb(size: int) -> bytes:
    """A few bytes of zstd that become `size` zeros."""
    return zstandard.ZstdCompressor().compress(bytes(size))


def big_file() -> bytes:
    info = tarfile.TarInfo("big")
    info.size = 10**12
    return zstandard.ZstdCompressor().compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000))


HOSTILE: dict[str, tuple[Callable[[Objects], bytes], str]] = {
    "no tar": (lambda _: b"hello" * 1_000, "no bundle"),
    "empty": (lambda _: b"", "no bundle"),
    "cut": (lambda objects: packed(objects)[:3_000], "ends too early"),
    "a path that leads out": (lambda objects: with_header(objects, "../../../x"), "workspace.patch"),
    "a link": (
        lambda objects: with_header(objects, "workspace.patch", tarfile.SYMTYPE, "/etc/passwd"),
        "workspace.patch: the entry must be a file",
    ),
    "a name that no bundle has": (lambda objects: packed({**objects, "evil.sh": b"x"}), "objects must be"),
    "an object twice": (
        lambda objects: packed(objects, index=lambda about: about["objects"].append(about["objects"][-1])),
        "objects must be",
    ),
    "more than it says": (
        lambda objects: packed(objects, index=lambda about: about["objects"].pop()),
        "more entries",
    ),
    "a huge size": (huge, "bundle.json"),
    "a wrong digest": (
        lambda objects: packed(objects, index=lambda about: about["objects"][2].update(sha256="0" * 64)),
        "SHA-256",
    ),
    "a later version": (of("version", 2), "version 2"),
    "a deep index": (of("execution_id", json.loads("[" * 50 + "]" * 50)), "cannot be read"),
    "another execution's manifest": (of("execution_id", "x"), "another execution"),
    "a record that runs": (changed("manifest.json", record(state="running")), "must have ended"),
    "a record of the year 9999": (
        changed("manifest.json", record(submitted_at="9999-12-31T23:59:59Z")),
        "between 2020 and 2100",
    ),
    "a record that is none": (changed("manifest.json", b"[]"), "record"),
    "events of another execution": (
        changed("events.ndjson", lambda line: line.replace(ID.encode(), b"1" * 36)),
        "another execution",
    ),
    "events that are none": (changed("events.ndjson", b"{}\n"), "line 1"),
    "a bomb as output": (changed("output.ndjson.gz", lambda _: gzip.compress(bytes(2_000_000))), "output.ndjson.gz"),
    "an output that is none": (changed("output.ndjson.gz", gzip.compress(b'{"seq":"x"}\n')), "not a chunk"),
    "a recording that is none": (changed("model.ndjson.zst", b"x"), "model.ndjson.zst"),
    "a bomb as recording": (changed("model.ndjson.zst", lambda _: bomb(30_000_000)), "model.ndjson.zst"),
    "another conversation": (changed("input-conversation.json", b"[]"), "input-conversation.json"),
    "another tree": (changed("input.tar.zst", zstandard.ZstdCompressor().compress(bytes(1024))), "digest"),
    "a bomb as tree": (changed("input.tar.zst", lambda _: big_file()), "input.tar.zst"),
    "an input that leads out": (
        changed("input.json", lambda given: json.dumps({**json.loads(given), "tree": "../../x"}).encode()),
        "input.json",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_bundle_is_refused_and_stores_nothing(tmp_path: Path, name: str) -> None:
    """Each with the entry's name; no object, no row, no file is left."""
    make, said = HOSTILE[name]
    made = await world(tmp_path)
    bundle = make(unpacked(await exported(made)))
    answer = await taken(made, bundle)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]
    assert "\x1b" not in answer.text
    assert not [key for key in made.store.objects if key.startswith("other/")]
    assert (await made.client.get("/tasks?project_id=other")).json()["items"] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
async def test_a_tree_with_an_entry_that_leads_out_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Also when every digest fits."""
    bad = tarfile.TarInfo("out")
    bad.type, bad.linkname = kind, "../../../etc/passwd"
    made = await world(tmp_path, tree(bad))
    answer = await taken(made, await exported(made))
    assert (answer.status_code, "input.tar.zst" in answer.json()["detail"]) == (422, True)


async def test_a_forged_clone_does_not_replace_the_tree_of_others(tmp_path: Path) -> None:
    """The digest of a clone leaves out git's objects: a bundle may have others than the tree stored under it."""
    stored, forged = tree(git_object=b"honest"), tree(git_object=b"forged")
    made = await world(tmp_path, stored, clone=True)
    bundle = await exported(made)
    answer = await taken(made, bundle)
    assert answer.status_code == 201, answer.text
    answer = await taken(made, packed({**unpacked(bundle), "input.tar.zst": forged}))
    assert answer.status_code == 201, answer.text
    trees = {key: data for key, data in made.store.objects.items() if re.fullmatch(r"other/inputs/\w+\.tar\.zst", key)}
    assert list(trees.values()) == [stored]
    users = [key for key in made.store.objects if key.startswith("other/inputs/") and ".users/" in key]
    assert len(users) == 2  # the second import uses the tree, too: it stays until both are deleted


async def test_who_may_export_and_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """409 before the archive is complete; 413 over the limit; another media type, as of a foreign page's form, 415."""
    made = await world(tmp_path)
    bundle = await exported(made)
    assert (await made.client.post("/bundles", content=bundle)).status_code == 415
    monkeypatch.setattr("ocf.functions.gateway.routes.bundles.BUNDLE_BYTES", 10)
    assert (await taken(made, bundle)).status_code == 413
    await made.record(state=State.RUNNING)
    assert (await made.client.get(f"/tasks/{ID}/bundle")).status_code == 409
    assert (await made.client.get(f"/tasks/{ID}/bundle?project_id=other")).status_code == 404


async def test_a_bundle_is_under_way_until_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request is refused while the first is held open, and served after its end or its reader's time."""
    made = await world(tmp_path)
    path, go_on, sent = f"/tasks/{ID}/bundle", asyncio.Event(), list[dict[str, Any]]()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"localhost:3003")], "client": ("127.0.0.1", 5000), "server": ("127.0.0.1", 3003),
    }  # fmt: skip

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            await go_on.wait()

    async def statuses() -> list[int]:
        held = asyncio.ensure_future(made.app(dict(scope), asyncio.Event().wait, send))
        while not any(message.get("body") for message in sent):
            await asyncio.sleep(0.001)
        during = (await made.client.get(path)).status_code
        go_on.set()
        await asyncio.gather(held, return_exceptions=True)
        return [during, (await made.client.get(path)).status_code]

    assert await statuses() == [429, 200]
    assert b"".join(message.get("body", b"") for message in sent) == await exported(made)
    go_on.clear()
    sent.clear()
    monkeypatch.setattr("ocf.functions.gateway.routes.bundles._seconds", lambda size: 0.2)
    monkeypatch.setattr(go_on, "set", lambda: None)
    assert await statuses() == [429, 200]


async def test_an_upload_below_the_slowest_rate_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 although each of its pieces comes in time: its turn is not held for hours."""
    made = await world(tmp_path)
    monkeypatch.setattr("ocf.functions.gateway.routes.bundles._seconds", lambda size: 0.05 + size / 10)

    async def slowly() -> AsyncIterator[bytes]:
        while True:
            yield b""
            await asyncio.sleep(0.001)

    assert (await made.client.post("/bundles", content=slowly(), headers=TAR)).status_code == 408


async def test_events_that_grow_beyond_a_bundle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their data is in other objects: the limit holds while they are collected, not afterwards."""
    made = await world(tmp_path)
    line = made.store.objects[f"default/{ID}/events.ndjson"]
    await made.store.put(f"default/{ID}/events.ndjson", line * 3)
    monkeypatch.setitem(LIMITS, "events.ndjson", 3 * len(line) - 100)
    assert (await made.client.get(f"/tasks/{ID}/bundle")).status_code == 409
    monkeypatch.setitem(LIMITS, "events.ndjson", 3 * len(line))
    assert (await made.client.get(f"/tasks/{ID}/bundle")).status_code == 200
