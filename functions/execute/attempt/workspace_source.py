"""Source of a run's workspace: the task's, its session's, or the state its session saved last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ocf.events.command_payloads import (
    EmptyWorkspace,
    Execute,
    GitWorkspace,
    SharedWorkspace,
    SnapshotWorkspace,
    Workspace,
)
from ocf.events.errors import SealError
from ocf.events.execution_ref import SessionRef
from ocf.events.input_manifest import ExecutionInput
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.core.object_deletion import input_key, saved_key
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.execute.context import WorkerContext
from ocf.functions.forges.http import ForgeRefused, ForgeUnavailable, forge_client
from ocf.functions.workspace.threads import in_thread

_ARCHIVE = "workspace.tar.zst"


def starts_from_store(task: Execute, session: Session | None) -> bool:
    """Return whether the workspace or the conversation of an execution is read from S3."""
    if session is None:
        return task.rerun is not None or isinstance(task.workspace, SnapshotWorkspace)
    return session.saved is not None or session.from_execution_id is not None


class WorkspaceInput:
    """Makes the workspace of one run. `folder` is private to the run, out of the agent's reach.

    `tree` are the stored files that a rerun begins from, whatever the source.

    Raises:
        InvalidWorkspace: the task names a workspace, but its session has saved one.
    """

    def __init__(
        self,
        context: WorkerContext,
        task: Execute,
        session: Session | None,
        folder: Path,
        tree: ExecutionInput | None = None,
    ) -> None:
        self._context = context
        self.tree = tree
        self._task = task
        self._folder = folder
        self._saved: tuple[SessionRef, str] | None = None
        self._base_commit: str | None = None
        self._source: Workspace = task.workspace
        if session is not None:
            self._of_session(session)
        settings = context.deps.settings
        self._sources = workspace.Sources(
            roots=tuple(Path(root) for root in settings.workspace_sources),
            private=(settings.state_dir, *map(Path, settings.private_dirs)),
            shared=settings.workspace_dir,
            objects=context.deps.store,
            project=task.project_id,
            limits=workspace.Limits(max_bytes=effective_limit(task.limits, "max_workspace_bytes", settings)),
        )

    def _of_session(self, session: Session) -> None:
        saved = session.saved if session.saved is not None and session.saved.workspace is not None else None
        if isinstance(self._source, EmptyWorkspace):
            self._source = session.workspace
        elif saved is not None and saved.execution_id != self._task.execution_id:  # saved by another execution
            raise workspace.InvalidWorkspace(f"workspace: session {session.session_id} has one already; leave it out")
        if saved is not None and saved.workspace is not None and not self.shared:
            self._saved = (session.ref, saved.workspace.name)
            self._base_commit = saved.commit

    @property
    def shared(self) -> bool:
        """Return whether the workspace is used in place, as OpenCode's directory from the start."""
        return self.tree is None and isinstance(self._source, SharedWorkspace)

    @property
    def source(self) -> Workspace:
        """Return the source: the task's, or its session's."""
        return self._source

    def base_commit(self, prepared: workspace.Prepared) -> str | None:
        """Return the commit that the clone of this execution, or of the session's first one, checked out."""
        return prepared.commit or self._base_commit

    @property
    def continued(self) -> bool:
        """Return whether the workspace is the one that an earlier execution of the session left."""
        return self._saved is not None

    @property
    def snapshot_of(self) -> str | None:
        """Return the execution whose stored workspace is the source, if one is."""
        return self._source.execution_id if isinstance(self._source, SnapshotWorkspace) else None

    @property
    def limits(self) -> workspace.Limits:
        """Return the limits of the workspace."""
        return self._sources.limits

    @property
    def keep_ignored(self) -> bool:
        """Return whether to archive files that `.gitignore` excludes; the task or its session may request it."""
        return self._task.workspace.keep_ignored or self._source.keep_ignored

    @property
    def label(self) -> str:
        """Return the kind of source in one word."""
        if self.tree is not None:
            return "recorded input"
        return self._source.source if self._saved is None else "session"

    def check(self) -> None:
        """Check the source before anything is prepared.

        Raises:
            InvalidWorkspace: the source cannot be used.
        """
        if self._saved is None and self.tree is None:
            workspace.check(self._source, self._sources)

    async def prepare(
        self, target: Path, on_secret: Callable[[str], None], own: workspace.Own, layer: Path | None = None
    ) -> workspace.Prepared:
        """Fill `target`, give it to its user and record its baseline. A shared workspace is used in place.

        Args:
            target: the folder to fill.
            on_secret: called with the token of the source, if it has one.
            own: gives files to the agent's user.
            layer: a directory whose contents are moved over the workspace.

        Raises:
            InvalidWorkspace: the workspace cannot be prepared.
        """
        private = self._folder / "base"
        if self.tree is not None:
            return await self._restored(self.tree, target, private, own)
        if self._saved is not None:
            archive = await self._fetched(await saved_key(self._context.deps.store, *self._saved))
            return await workspace.restore(archive, target, private, self._sources.limits, own, layer)
        token = await self._token()
        if token is not None:
            on_secret(token)
        return await workspace.prepare(
            self._source, target, self._sources, private=private, token=token, own=own, layer=layer
        )

    async def _restored(
        self, tree: ExecutionInput, target: Path, private: Path, own: workspace.Own
    ) -> workspace.Prepared:
        """Fill `target` with the files that another execution began from.

        Raises:
            InvalidWorkspace: they are not those that its description names.
        """
        digest = str(tree.tree)
        archive = await self._fetched(input_key(self._task.project_id, digest))
        limits = self._sources.limits
        found = await in_thread(lambda stop: workspace.tree_digest(archive, limits, stop, clone=tree.clone))
        if found != digest:
            raise workspace.InvalidWorkspace(f"the input tree {digest} is damaged: its files have the digest {found}")
        prepared = await workspace.restore(archive, target, private, limits, own)
        archive.unlink()
        return replace(prepared, commit=tree.commit if tree.clone else None)

    async def _token(self) -> str | None:
        if not isinstance(self._source, GitWorkspace):
            return None
        if self._source.credential is not None:
            return await self._token_of(self._source.credential, self._source.url)
        if self._source.token is None:
            return None
        try:
            return self._context.opened(self._source.token, self._task.project_id).get_secret_value()
        except SealError as error:
            raise workspace.InvalidWorkspace(f"workspace.token: {error}") from None

    async def _token_of(self, name: str, url: str) -> str:
        credentials = self._context.deps.credentials
        try:
            async with forge_client() as client:
                access = await credentials.access(client, self._task.project_id, name, url=url, read_only=True)
        except (ForgeRefused, ForgeUnavailable, SealError) as error:
            raise workspace.InvalidWorkspace(f"workspace.credential: {error}") from None
        return access.token

    async def _fetched(self, key: str) -> Path:
        path = self._folder / "session" / _ARCHIVE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("wb") as file:
            async for piece in self._context.deps.store.stream(key):
                file.write(piece)
        return path
