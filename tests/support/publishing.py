"""Results of executions, published to a stand-in forge without a worker."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ocf.events.command_payloads import Execute, GitWorkspace
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State
from ocf.events.sealing import Keyring, generate_key
from ocf.events.terminal_facts import PublishedResult
from ocf.functions import workspace
from ocf.functions.forges.credentials import Credential, ForgeCredentials
from ocf.functions.publishing.publisher import ARCHIVE, Work
from tests.support.forge import TOKEN, StandIn
from tests.support.parts import PROJECT, Bench, bench, instead

FILES = {"README.md": "# app\n", "src/app.py": "print('one')\n", "docs/note.txt": "note\n"}


@dataclass
class Publishing:
    """One execution whose agent is done: its workspace is `tree`, cloned from the forge."""

    forge: StandIn
    bench: Bench
    task: Execute
    source: GitWorkspace
    prepared: workspace.Prepared
    folder: Path

    @property
    def tree(self) -> Path:
        """The workspace."""
        return self.prepared.directory

    def write(self, path: str, text: str) -> None:
        """Change a file as the agent would."""
        (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
        (self.tree / path).write_text(text)

    def asking(self, **result: Any) -> Publishing:
        """The same with other fields of `result`."""
        asked = self.task.result.model_copy(update=result) if self.task.result else None
        return replace(self, task=self.task.model_copy(update={"result": asked}))

    async def publish(self, text: str = "It is mended.") -> PublishedResult:
        """Publish as the worker does that ran the agent."""
        patch = await workspace.write_patch(self.prepared, self.folder / f"{uuid.uuid4().hex}.patch")
        assert self.prepared.commit is not None
        folder = self.folder / uuid.uuid4().hex
        work = Work(self.source, self.prepared.commit, folder, self.prepared, patch)
        return await self.bench.deps.results.publish(self.task, text, work)

    async def archive(self) -> None:
        """Store the workspace as the worker does before it publishes."""
        path = self.folder / f"{uuid.uuid4().hex}.zst"
        await workspace.pack(self.prepared, path)
        key = f"{PROJECT}/{self.task.execution_id}/{ARCHIVE}"
        await self.bench.store.put(key, path.read_bytes())

    async def publish_archived(self) -> PublishedResult:
        """Publish as a successor does, from the archive."""
        assert self.prepared.commit is not None
        work = Work(self.source, self.prepared.commit, self.folder / uuid.uuid4().hex)
        return await self.bench.deps.results.publish(self.task, "It is mended.", work)

    async def record(self) -> Record:
        """The record."""
        return await self.bench.deps.records.require(PROJECT, self.task.execution_id)


def rsa_keys() -> tuple[str, str]:
    """A new RSA key in PEM: private and public."""
    key = rsa.generate_private_key(65537, 2048)
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), key.public_key().public_bytes(pem, form).decode()


async def publishing(
    forge: Any, folder: Path, *, url: str | None = None, token: str = TOKEN, app: bool = False, **settings: Any
) -> Publishing:
    """A completed execution in a clone of the forge's repository, with a credential `bot`, of a GitHub App if `app`."""
    made = bench(**settings)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))

    clock, keys = made.deps.clock, Keyring(generate_key())
    credentials = ForgeCredentials(made.deps.sessions, clock, keys)
    sealed = {"token": keys.seal(token, PROJECT), "api_url": forge.api_url}
    about = {"name": "bot", "project_id": PROJECT, "forge": "gitea", "created_at": clock.now()}
    if app:
        private, forge.app_key = rsa_keys()
        sealed = {"private_key": keys.seal(private, PROJECT), "api_url": forge.api_url.replace("v1", "v3")}
        about |= {"forge": "github", "app_id": 12, "installation_id": 34}
    await credentials.put(Credential.model_validate(about | sealed))
    made = made.having(keyring=keys, credentials=credentials, clock=instead(clock, sleep=sleep))
    execution, now = str(uuid.uuid4()), datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    source = GitWorkspace(source="git", url=url or forge.url, credential="bot")
    body = {"prompt": "Mend the app\nplease", "workspace": source.model_dump(), "result": {"branch": "ocf/fix"}}
    ids = {"execution_id": execution, "project_id": PROJECT, "submitted_at": now}
    task = Execute.model_validate(body | ids)
    times = {"submitted_at": now, "updated_at": now, "timeout_seconds": 60}
    await made.deps.records.create(
        Record.model_validate({"execution_id": execution, "project_id": PROJECT, "state": State.RUNNING, **times})
    )
    folder.mkdir(parents=True, exist_ok=True)
    prepared = await workspace.prepare(
        source, folder / "agent", workspace.Sources(), private=folder / "private", token=token
    )
    return Publishing(forge, made, task, source, prepared, folder)
