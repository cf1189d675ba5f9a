"""Push the result of a completed execution and open its pull request; safe to repeat at any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import httpx2
import structlog

from ocf.events.command_payloads import EmptyWorkspace, Execute, GitWorkspace
from ocf.events.errors import NotYetKnown, OcfError, SealError
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import PullRequestRef
from ocf.events.lifecycle import State
from ocf.events.ports import Clock, ObjectStore
from ocf.events.sealing import Keyring
from ocf.events.task_forge_fields import TaskResult
from ocf.events.terminal_facts import PublishedResult
from ocf.events.untrusted_json import KIB, first_line, shorten
from ocf.functions import workspace
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.forges.addresses import forge_address
from ocf.functions.forges.credentials import Access, ForgeCredentials
from ocf.functions.forges.forge import CommitState, CommitStatus, Forge, Proposal, PullRequest
from ocf.functions.forges.http import ForgeRefused, ForgeUnavailable, forge_client
from ocf.functions.publishing.branch import Branch, Change, ForgeAway, Pushed, ResultRejected
from ocf.functions.settings.settings import Settings
from ocf.functions.workspace.clone import check_url

log = structlog.get_logger()

Say = Callable[[str], Awaitable[None]]
ARCHIVE = "workspace.tar.zst"
_AUTHOR = "OpenCode Functions <ocf@localhost>"
#: Seconds between tries. A forge that is away for longer has the result refused; it can be pushed again later.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_MAX_PAUSE = 120.0
_BODY_BYTES = 40 * KIB
_SESSION_EXECUTIONS = 50
_STATUS_SECONDS = 10.0
_STATUS: dict[State, tuple[CommitState, str]] = {
    State.RUNNING: ("pending", "An agent works on it"),
    State.COMPLETED: ("success", "The agent has finished"),
    State.FAILED: ("failure", "The agent's execution failed"),
    State.CANCELLED: ("cancelled", "The agent's execution was cancelled"),
    State.TIMED_OUT: ("timed_out", "The agent's execution reached its time limit"),
}


@dataclass(frozen=True)
class Work:
    """Work of an execution: `prepared` is its workspace, `patch` the snapshot that was taken of it.

    Without them, or if the baseline is not that of `base_commit` (a later turn of a session), the changes are found by
    a clone of `base_commit` beside the directory, or the archive.
    """

    source: GitWorkspace
    base_commit: str
    folder: Path
    prepared: workspace.Prepared | None = None
    patch: workspace.Patch | None = None


async def _silent(_: str) -> None:
    """Say nothing."""


class ResultPublisher:
    """Publishes the results of executions, from the worker's memory or from their archives."""

    def __init__(
        self,
        *,
        credentials: ForgeCredentials,
        keyring: Keyring | None,
        records: Records,
        sessions: Sessions,
        store: ObjectStore,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._credentials = credentials
        self._keyring = keyring
        self._records = records
        self._sessions = sessions
        self._store = store
        self._settings = settings
        self._clock = clock

    async def publish(self, task: Execute, text: str, work: Work, say: Say = _silent) -> PublishedResult:
        """Push the branch and open the pull request; repeat while the forge is away.

        Args:
            task: the task, with a `result`.
            text: the agent's last message.
            work: what it left.
            say: tells a line of progress.

        Raises:
            ResultRejected: it is refused for good, or the forge was away too long.
        """
        for pause in (*_PAUSES, None):
            try:
                return await self._publish(task, text, work, say)
            except (ForgeAway, ForgeUnavailable) as error:
                if pause is None:
                    raise ResultRejected(f"{error}; gave up after {len(_PAUSES) + 1} tries") from None
                await say(f"the forge is away, trying again: {error}")
                asked = getattr(error, "retry_after", None) or 0.0
                await self._clock.sleep(min(_MAX_PAUSE, max(pause, asked)))
            except (ForgeRefused, SealError, workspace.InvalidWorkspace) as error:
                raise ResultRejected(str(error)) from None
            except NotYetKnown:
                raise ResultRejected("the workspace is not in the archive") from None
        raise AssertionError("unreachable")

    async def _publish(self, task: Execute, text: str, work: Work, say: Say) -> PublishedResult:
        result = _result(task)
        sources = self._sources(task)
        roots = sources.directories
        async with forge_client() as client:
            access = await self.access(client, task, work.source)
            repository = access.address.repository(work.source.url)
            forge = access.connect(client)
            remote = check_url(work.source.url, sources.protocols, roots)
            folder, most = work.folder / "push", sources.limits.max_bytes
            branch = Branch(remote, access.token, folder, (remote.scheme,), roots, max_file_bytes=most)
            record = await self._records.require(task.project_id, task.execution_id)
            await say(f"pushing branch {result.branch}")
            pushed = await branch.push(
                result.branch,
                result.base or _branch_of(work.source),
                lambda: self._change(task, work, access.token),
                pushed=record.pushed,
                is_ours=lambda commit: self._pushed_by_session(task, commit),
                note=lambda commit: self._note(task, commit),
            )
            names = ", ".join(workspace.readable(name) for name in pushed.left_out[:5])
            left_out = [f"changes in submodules are not part of it, push them there: {names}"] if names else []
            if pushed.commit is None:
                nothing = "; ".join(["no changes: nothing was pushed", *left_out])
                await say(nothing)
                return PublishedResult(message=nothing)
            opened, problems = await self._pull_request(forge, repository, task, text, pushed)
            problems = [*left_out, *problems]
            await say(f"pull request {opened.url}")
            reference = PullRequestRef(number=opened.number, url=opened.url)
            return PublishedResult(pushed.commit, result.branch, reference, "; ".join(problems) or None)

    async def try_status(self, task: Execute, state: State) -> None:
        """Do what `set_status` does. A status that cannot be set is logged and changes nothing else."""
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await self.set_status(task, state)
        except (OcfError, TimeoutError) as error:
            log.warning("commit status not set", action="result.no_status", reason=str(error) or "no answer in time")

    async def set_status(self, task: Execute, state: State) -> None:
        """Set the status `ocf` of the latest commit that this execution or its session pushed, if there is one.

        The record keeps the commit whose status is pending. That one gets the end too, from the function `result`
        if this fails.

        Raises:
            ForgeRefused, ForgeUnavailable, SealError: the status cannot be set.
        """
        if task.result is None:
            return
        source = await self.source(task)
        record = await self._records.find(task.project_id, task.execution_id)
        if source is None or record is None:
            return
        running = state is State.RUNNING
        latest = await self._latest(task)
        commits = list(dict.fromkeys(filter(None, (latest, None if running else record.status_open))))
        if not commits:
            return
        if running:
            await self._keep_status(task, latest)
        link = self.link(task.project_id, task.execution_id) or None
        status = CommitStatus(*_STATUS[state], link, str(ExecutionRef(task.project_id, task.execution_id)))
        async with forge_client() as client:
            access = await self.access(client, task, source)
            forge, repository = access.connect(client), access.address.repository(source.url)
            for commit in commits:
                await forge.set_status(repository, commit, status)
        if not running:
            await self._keep_status(task, None)

    async def _keep_status(self, task: Execute, commit: str | None) -> None:
        def kept(record: Record) -> Record | None:
            same = record.status_open == commit or (commit is not None and record.terminal)
            return None if same else record.model_copy(update={"status_open": commit})

        await self._records.change(task.project_id, task.execution_id, kept)

    async def source(self, task: Execute) -> GitWorkspace | None:
        """Return the repository of a task, or of its session; None if it has none."""
        session = await self._sessions.get(task.project_id, task.session_id) if task.session_id is not None else None
        of_session = session is not None and isinstance(task.workspace, EmptyWorkspace)
        source = session.workspace if session is not None and of_session else task.workspace
        return source if isinstance(source, GitWorkspace) else None

    async def access(self, client: httpx2.AsyncClient, task: Execute, source: GitWorkspace) -> Access:
        """Return the forge of the result and its token: a credential's, or that of the workspace.

        Raises:
            ForgeRefused, ForgeUnavailable, SealError: the forge or the token cannot be had.
        """
        result = _result(task)
        name = result.credential or source.credential
        if name is not None:
            access = await self._credentials.access(client, task.project_id, name, url=source.url)
            access.address.require(result.forge, result.api_url, name)
            return access
        if source.token is None or self._keyring is None:
            raise ForgeRefused("there is neither result.credential nor a credential or token of the workspace")
        address = forge_address(result.forge, result.api_url, source.url)
        return Access(address, self._keyring.open(source.token, task.project_id))

    async def _note(self, task: Execute, commit: str) -> None:
        def noted(record: Record) -> Record | None:
            return None if commit in record.pushed else record.model_copy(update={"pushed": [*record.pushed, commit]})

        await self._records.change(task.project_id, task.execution_id, noted)

    async def _pushed_by_session(self, task: Execute, commit: str) -> bool:
        return any([commit in pushed async for pushed in self._pushed(task)])

    async def _latest(self, task: Execute) -> str | None:
        """Return the latest commit that this execution or its session pushed."""
        async for pushed in self._pushed(task):
            if pushed:
                return pushed[-1]
        return None

    async def _pushed(self, task: Execute) -> AsyncIterator[list[str]]:
        """Yield the pushed commits of this execution and of those of its session, the latest first."""
        session = await self._sessions.get(task.project_id, task.session_id) if task.session_id else None
        earlier = session.executions[-_SESSION_EXECUTIONS:] if session is not None else []
        for execution in dict.fromkeys((task.execution_id, *reversed(earlier))):
            record = await self._records.find(task.project_id, execution)
            if record is not None:
                yield record.pushed

    def _sources(self, task: Execute) -> workspace.Sources:
        limits = workspace.Limits(max_bytes=effective_limit(task.limits, "max_workspace_bytes", self._settings))
        roots = tuple(map(Path, self._settings.workspace_sources))
        return workspace.Sources(roots=roots, project=task.project_id, limits=limits)

    async def _change(self, task: Execute, work: Work, token: str) -> Change:
        prepared, patch = work.prepared, work.patch
        if prepared is None or patch is None or prepared.commit != work.base_commit:
            prepared = await self._beside_its_base(task, work, token)
            patch = await workspace.write_patch(prepared, work.folder / "result.patch")
        if patch.truncated:
            raise ResultRejected("too many files have changed to commit them all")
        if patch.omitted:
            raise ResultRejected(f"files are too large to commit: {', '.join(patch.omitted[:5])}")
        result, when = _result(task), task.submitted_at
        message = (result.commit_message or _title(task)).rstrip() + f"\n\nOCF-Execution: {task.execution_id}\n"
        allow = result.allow_ci_changes and self._settings.allow_ci_changes
        seconds = int(when.timestamp())
        return Change(prepared, work.base_commit, patch.ref, message, result.author or _AUTHOR, seconds, allow)

    async def _beside_its_base(self, task: Execute, work: Work, token: str) -> workspace.Prepared:
        """Return the workspace, from the archive unless it is there, with the baseline of the base commit."""
        sources, folder = self._sources(task), work.folder
        for name in ("base", "clone", "tree", "result.patch"):  # of an earlier try
            await workspace.discard_tree(folder / name)
        directory = work.prepared.directory if work.prepared is not None else folder / "tree"
        if work.prepared is None:
            key = f"{ExecutionRef(task.project_id, task.execution_id).prefix}/{ARCHIVE}"
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / ARCHIVE).open("wb") as file:
                async for piece in self._store.stream(key):
                    await asyncio.to_thread(file.write, piece)
            await workspace.unpack(folder / ARCHIVE, directory, sources.limits)
        source = work.source.model_copy(update={"ref": work.base_commit, "depth": 1})
        base = await workspace.prepare(source, folder / "clone", sources, private=folder / "base", token=token)
        return replace(base, directory=directory)

    async def _pull_request(
        self, forge: Forge, repository: str, task: Execute, text: str, pushed: Pushed
    ) -> tuple[PullRequest, list[str]]:
        """Return the one pull request of the branch, opened unless there is one, and what the forge refused besides."""
        result = _result(task)
        fields = result.pull_request
        found = await forge.pull_requests(repository, result.branch, pushed.base)
        opened = next((one for one in found if one.open or one.commit == pushed.commit), None)
        if opened is None:
            body = fields.body if fields.body is not None else shorten(text, _BODY_BYTES)
            body = "\n\n".join(filter(None, (body, self.link(task.project_id, task.execution_id))))
            proposal = Proposal(result.branch, pushed.base, fields.title or _title(task), body, fields.draft)
            opened = await forge.open_pull_request(repository, proposal)
        elif fields.title is not None or fields.body is not None:
            await forge.update_pull_request(repository, opened.number, fields.title, fields.body)
        problems = []
        extras: tuple[tuple[str, list[str], Callable[..., Awaitable[None]]], ...] = (
            ("labels", fields.labels, forge.add_labels),
            ("reviewers", fields.reviewers, forge.ask_reviewers),
        )
        for name, values, add in extras:
            try:
                if values:
                    await add(repository, opened.number, tuple(values))
            except ForgeRefused as error:
                problems.append(f"{name}: {error}")
        return opened, problems

    def link(self, project: str, execution: str) -> str:
        """Return the address of the execution's page in the console; empty without CONSOLE_URL."""
        if self._settings.console_url is None:
            return ""
        return f"{self._settings.console_url.rstrip('/')}/#/tasks/{execution}?project={quote(project)}"


def _result(task: Execute) -> TaskResult:
    if task.result is None:
        raise ResultRejected("the task has no result to push")
    return task.result


def _branch_of(source: GitWorkspace) -> str | None:
    ref = (source.ref or "").removeprefix("refs/heads/")
    return ref if ref and not ref.startswith("refs/") else None


def _title(task: Execute) -> str:
    return first_line(task.prompt or task.code or "") or "changes of an agent"
