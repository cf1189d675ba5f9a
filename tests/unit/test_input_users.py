"""Input trees are shared by executions and go with the last of them, whatever breaks off in between."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Execute
from ocf.events.execution_ref import ExecutionRef
from ocf.events.input_manifest import INPUT, ExecutionInput
from ocf.events.ports import ObjectInfo
from ocf.functions.core.object_deletion import delete_execution, input_key, input_user
from ocf.functions.execute.inputs.input_snapshot import InputKeeper
from tests.support.clock import ManualClock
from tests.support.handlers import archive
from tests.support.parts import PROJECT, bench
from tests.unit.test_cancel_cleanup_archive import completed, terminal

TREE = "a" * 64
A, B = ("0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11", "1c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a22")


class Crash(BaseException):
    """The process was killed."""


class CrashingStore(MemoryStore):
    """Kills its caller before the call number `at`, once; `before_removal` runs before a tree is removed."""

    at = -1
    calls = 0
    before_removal: Any = None

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise Crash

    async def put(self, key: str, data: bytes, *, content_type: str = "") -> ObjectInfo:
        self._count()
        return await super().put(key, data, content_type=content_type)

    async def head(self, key: str) -> ObjectInfo | None:
        self._count()
        return await super().head(key)

    async def delete_prefix(self, prefix: str) -> int:
        self._count()
        if prefix == input_key(PROJECT, TREE) and self.before_removal is not None:
            action, self.before_removal = self.before_removal, None
            await action()
        return await super().delete_prefix(prefix)


def keeper(store: MemoryStore, execution: str, folder: Path, tree: str = TREE) -> InputKeeper:
    ids = {"execution_id": execution, "project_id": PROJECT}
    task = Execute.model_validate({**ids, "prompt": "p", "submitted_at": ManualClock().now()})
    folder.mkdir(exist_ok=True)
    (folder / "input.tar.zst").write_bytes(b"tree")
    made = InputKeeper(cast(Any, SimpleNamespace(store=store, settings=None)), task, folder)
    made.found = ExecutionInput(tree=tree)
    return made


async def keep(store: MemoryStore, execution: str, folder: Path, tree: str = TREE) -> None:
    made = keeper(store, execution, folder, tree)
    made.store()
    await made.finish(5.0)


def trees(store: MemoryStore) -> set[str]:
    return {key for key in store.objects if key.startswith(f"{PROJECT}/inputs/")}


async def crashed(store: CrashingStore, at: int, *steps: Any) -> bool:
    """Run the steps, killed once before call number `at`, and then again; whether that call came."""
    store.at, store.calls = at, 0
    try:
        for step in steps:
            await step()
    except Crash:
        store.at = -1
        for step in steps:
            await step()
        return True
    return False


@pytest.mark.parametrize("at", range(1, 30))
async def test_a_tree_stays_while_it_has_a_user_and_goes_with_the_last(tmp_path: Path, at: int) -> None:
    """Wherever the keeping or the deletion is killed and repeated: no tree is missing, none is left."""
    store = CrashingStore()
    refs = [ExecutionRef(PROJECT, one) for one in (A, B)]
    await crashed(store, at, lambda: keep(store, A, tmp_path / "a"), lambda: keep(store, B, tmp_path / "b"))
    assert trees(store) == {input_key(PROJECT, TREE), *(input_user(ref, TREE) for ref in refs)}
    await crashed(store, at, lambda: delete_execution(store, refs[0]))
    assert trees(store) == {input_key(PROJECT, TREE), input_user(refs[1], TREE)}
    await crashed(store, at, lambda: delete_execution(store, refs[1]))
    assert store.objects == {}


@pytest.mark.parametrize("at", range(1, 8))
async def test_a_worker_that_is_killed_while_it_stores_leaves_nothing_behind(tmp_path: Path, at: int) -> None:
    """The deletion of its execution finds what it had stored."""
    store = CrashingStore()
    store.at = at
    with pytest.raises(Crash):
        await keep(store, A, tmp_path / "a")
    store.at = -1
    await delete_execution(store, ExecutionRef(PROJECT, A))
    assert store.objects == {}


async def test_a_tree_that_a_concurrent_deletion_removed_is_stored_again(tmp_path: Path) -> None:
    """The deletion saw no user, then a run found the tree there, then it was removed: the end of the run notices."""
    store = CrashingStore()
    await keep(store, A, tmp_path / "a")
    second = keeper(store, B, tmp_path / "b")

    async def begin() -> None:
        await second._describe_and_store()

    store.before_removal = begin
    await delete_execution(store, ExecutionRef(PROJECT, A))
    assert input_key(PROJECT, TREE) not in store.objects
    second.store()
    await second.finish(5.0)
    assert store.objects[input_key(PROJECT, TREE)] == b"tree"
    await delete_execution(store, ExecutionRef(PROJECT, B))
    assert store.objects == {}


async def test_a_further_attempt_with_other_files_releases_those_of_the_first(tmp_path: Path) -> None:
    """A branch may have moved on in between."""
    store = MemoryStore()
    await keep(store, A, tmp_path / "a")
    await keep(store, A, tmp_path / "a", "b" * 64)
    ref = ExecutionRef(PROJECT, A)
    assert trees(store) == {input_key(PROJECT, "b" * 64), input_user(ref, "b" * 64)}


@pytest.mark.parametrize("damage", [b"{", b'{"tree": "../../x"}', b" " * 300_000])
async def test_a_damaged_description_is_no_obstacle(damage: bytes) -> None:
    """An execution with one is archived and deleted; nothing outside its folder is touched."""
    store = MemoryStore()
    await store.put(f"{PROJECT}/{A}/{INPUT}", damage)
    await store.put(f"{PROJECT}/x", b"other")
    await delete_execution(store, ExecutionRef(PROJECT, A))
    assert set(store.objects) == {f"{PROJECT}/x"}


async def test_the_manifest_names_the_input_and_whether_its_files_are_there() -> None:
    """It stands in the manifest and is one of the objects."""
    for stored in (True, False):
        b = bench()
        execution = await completed(b)
        prefix = f"{PROJECT}/{execution}"
        about = ExecutionInput(source="git", commit="c", tree=TREE, session_id=str(uuid.uuid4()))
        await b.store.put(f"{prefix}/{INPUT}", about.model_dump_json().encode())
        if stored:
            await b.store.put(input_key(PROJECT, TREE), b"tree")
        await archive(b.deps, await terminal(b, execution))
        manifest = json.loads(b.store.objects[f"{prefix}/manifest.json"])
        assert (manifest["input"]["commit"], manifest["input"]["tree"]) == ("c", TREE)
        assert manifest["input"].get("missing") == (None if stored else "the files could not be stored")
        assert INPUT in {one["name"] for one in manifest["objects"]}
