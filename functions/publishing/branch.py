"""A commit of the workspace's changes, pushed to a branch, from a repository that no agent can reach.

Git reads no file and no configuration of the workspace: the contents are in the private repository of its baseline
already (`ocf.functions.workspace.baseline`). So no hook, filter or attribute of the repository has an effect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ocf.events.errors import DeadLetter, Unavailable
from ocf.events.lifecycle import Reason
from ocf.functions import workspace
from ocf.functions.workspace import baseline
from ocf.functions.workspace.allowed_roots import Roots
from ocf.functions.workspace.archive import leads_out
from ocf.functions.workspace.clone import Network, Remote, credential_config, fetch_commit, list_remote
from ocf.functions.workspace.git import REPOSITORY, Git, GitFailed

#: Files by which a forge runs something with the repository's secrets, or decides who must approve.
_CI = re.compile(
    r"(\.github|\.gitlab-ci\.yml|((\.github|\.gitlab|\.gitea|\.forgejo|docs)/)?CODEOWNERS)$"
    r"|(\.github/(workflows|actions)|\.gitea|\.forgejo)(/|$)",
    re.IGNORECASE,
)
#: git's words when another try cannot help.
_FINAL = re.compile(
    r"reject|denied|declined|protected|forbidden|unauthori[sz]ed|authenticat|could not read username"
    r"|returned error: 4\d\d|not found|stale info|does not exist|not our ref|permission|failed to push some refs",
    re.IGNORECASE,
)
_COMMITTER = {"GIT_COMMITTER_NAME": "OpenCode Functions", "GIT_COMMITTER_EMAIL": "ocf@localhost"}
_MAX_NAMED = 5


class ResultRejected(DeadLetter):
    """The result cannot be pushed."""

    #: `failed.reason` of the execution.
    reason = Reason.RESULT_REJECTED


class ForgeAway(Unavailable):
    """The result cannot be pushed now."""


@dataclass(frozen=True)
class Change:
    """Changes to commit: the workspace with the baseline of `base_commit`, and how to call it."""

    prepared: workspace.Prepared
    base_commit: str
    #: Commit of the changes in the private repository; None: nothing changed.
    ref: str | None
    message: str
    author: str
    seconds: int
    allow_ci: bool = False


@dataclass(frozen=True)
class Pushed:
    """The commit on the branch (None: there are no changes), and the branch that a pull request is for.

    `left_out` has the submodules with changes, which are not part of it.
    """

    commit: str | None
    base: str
    left_out: tuple[str, ...] = ()


class Branch:
    """A branch of a remote repository, and a bare repository below `folder` to push from."""

    def __init__(
        self,
        remote: Remote,
        token: str | None,
        folder: Path,
        protocols: tuple[str, ...],
        roots: Roots,
        *,
        max_file_bytes: int,
    ) -> None:
        self._remote = remote
        self._token = token
        # As for a clone: the server decides how large a pack it sends.
        self._git = Git(folder, protocols, max_file_bytes=max_file_bytes)
        self._roots = roots
        self._left_out: set[str] = set()
        self._directory = folder / "push.git"
        self._env = {} if token is None else {"OCF_GIT_TOKEN": token}

    async def push(
        self,
        name: str,
        base: str | None,
        make_change: Callable[[], Awaitable[Change]],
        *,
        pushed: Collection[str],
        is_ours: Callable[[str], Awaitable[bool]],
        note: Callable[[str], Awaitable[None]],
    ) -> Pushed:
        """Commit and push; do nothing where the branch has the changes already.

        Args:
            name: the branch.
            base: the branch of the pull request; the default branch if the remote has no such one, or None.
            make_change: returns what to commit.
            pushed: commits of these changes from earlier tries.
            is_ours: tells whether this session pushed a commit.
            note: called with the commit before it is pushed.

        Raises:
            ResultRejected: refused for good.
            ForgeAway: another try may help.
        """
        try:
            await self._open()
            wanted = ["HEAD", f"refs/heads/{name}", *([f"refs/heads/{base}"] if base else [])]
            listed = await list_remote(wanted, self._directory, self._git, self._env)
            default = listed.get("@HEAD")
            target = base if base and f"refs/heads/{base}" in listed else default
            if target is None:
                raise ResultRejected(f"{self._remote.url} has no branch that a pull request could be for")
            if name in (target, default):
                raise ResultRejected(f"result.branch: {name!r} is the base or the default branch of {self._remote.url}")
            tip = listed.get(f"refs/heads/{name}")
            if tip in pushed:
                return Pushed(tip, target)
            commit = await self._push(await make_change(), name, tip, is_ours, note)
            return Pushed(commit, target, tuple(sorted(self._left_out)))
        except workspace.InvalidWorkspace as error:
            raise ResultRejected(self._hidden(error)) from None
        except GitFailed as error:
            await workspace.discard_tree(self._directory)  # each try would leave a pack that broke off
            kind = ResultRejected if _FINAL.search(str(error)) else ForgeAway
            raise kind(f"git push to {self._remote.url}: {self._hidden(error)}") from None

    def _hidden(self, error: Exception) -> str:
        return str(error).replace(self._token, "[token]") if self._token else str(error)

    async def _push(
        self,
        change: Change,
        name: str,
        tip: str | None,
        is_ours: Callable[[str], Awaitable[bool]],
        note: Callable[[str], Awaitable[None]],
    ) -> str | None:
        """Push unless nothing changed; return the commit at the branch. `tip` is the commit there now."""
        if change.ref is None:
            return None
        objects = change.prepared.private.resolve() / REPOSITORY / "objects"
        (self._directory / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        await self._fetch(change.base_commit)
        tree = await self._tree(change)
        if tree == await self._id(f"{change.base_commit}^{{tree}}"):
            return None
        commit = await self._commit(change, tree, change.base_commit)
        if tip == commit:
            return commit
        if tip is not None:
            if not await is_ours(tip):
                reason = "which this execution or session did not push"
                raise ResultRejected(f"branch {name!r} exists with commit {tip[:12]}, {reason}")
            await self._fetch(tip)
            if tree == await self._id(f"{tip}^{{tree}}"):
                return tip
            commit = await self._commit(change, tree, tip)
        await note(commit)
        how = ("--quiet", "--porcelain", "--no-verify", "--no-thin", "--no-signed", "--recurse-submodules=no")
        lease = f"--force-with-lease=refs/heads/{name}:{tip or ''}"
        await self._run("push", *how, lease, "origin", f"{commit}:refs/heads/{name}")
        return commit

    async def _open(self) -> None:
        if not self._directory.exists():
            self._git.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            baseline.make_repository(self._directory, bare=True)
            self._git.set_up()
            await self._run("remote", "add", "origin", self._remote.url)
        await Network(self._git, self._roots, credential_config(self._remote, self._token)).admit(self._remote)

    async def _run(self, *arguments: str, env: dict[str, str] | None = None, stdin: bytes | None = None) -> str:
        out = await self._git.run(arguments, cwd=self._directory, env={**self._env, **(env or {})}, stdin=stdin)
        return out.decode(errors="surrogateescape").strip("\n")

    async def _id(self, name: str) -> str:
        return await self._run("rev-parse", "--verify", name)

    async def _fetch(self, commit: str) -> None:
        """Fetch a commit with its trees; of its files only what a server without partial clones sends."""
        fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
        depth = ["--depth=1", "--filter=blob:none"]
        await fetch_commit(commit, fetch, depth, self._directory, self._git, self._env)

    async def _tree(self, change: Change) -> str:
        """Return the tree of the base commit with the changes of the workspace; submodules stay as they are."""
        private = change.prepared.git()
        ids = [change.ref, *filter(None, [baseline.base_of(change.prepared.private)])]
        named = await private.run(
            [f"--git-dir={REPOSITORY}", "rev-parse", *(f"{one}^{{tree}}" for one in ids)], cwd=private.home
        )
        after, *rest = named.decode().split()
        before = rest[0] if rest else baseline.EMPTY_TREE
        index = {"GIT_INDEX_FILE": str(self._git.home / "index")}
        await self._run("read-tree", change.base_commit, env=index)
        staged = (await self._run("ls-files", "--stage", "-z", env=index)).split("\0")
        modules = tuple(entry.partition("\t")[2] for entry in staged if entry.startswith("160000 "))
        diff = await self._run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", before, after)
        entries = _entries(diff)
        inside = {path: module for path, _ in entries for module in modules if f"{path}/".startswith(f"{module}/")}
        self._left_out = set(inside.values())
        entries = [(path, line) for path, line in entries if path not in inside]
        links = await self._links_out(change, diff)
        entries = [(path, line) for path, line in entries if path not in links]
        touched = [path for path, _ in entries if _CI.match(path)]
        if touched and not change.allow_ci:
            named_files = ", ".join(workspace.readable(path) for path in touched[:_MAX_NAMED])
            raise ResultRejected(
                f"files that run or decide with the repository's own rights were changed: {named_files}; "
                "set result.allow_ci_changes, if the operator allows it (ALLOW_CI_CHANGES)"
            )
        # Removals first: a path may have changed from a file to a directory.
        lines = [line for _, line in sorted(entries, key=lambda entry: not entry[1].startswith("0 "))]
        text = "".join(f"{line}\0" for line in lines).encode(errors="surrogateescape")
        await self._run("update-index", "-z", "--index-info", env=index, stdin=text)
        return await self._run("write-tree", "--missing-ok", env=index)

    async def _links_out(self, change: Change, diff: str) -> set[str]:
        """Return the links that lead out of the workspace: neither a clone nor the archive has any."""
        real, found = os.path.realpath(change.prepared.directory), set()
        fields = iter(diff.split("\0"))
        for about in filter(None, fields):
            (_, mode, _, sha, _), path = about.split(), next(fields)
            if mode == "120000" and leads_out(real, path, await self._run("cat-file", "blob", sha)):
                found.add(path)
        return found

    async def _commit(self, change: Change, tree: str, parent: str) -> str:
        """Return the commit: the same for the same changes, also at another try."""
        name, _, email = change.author.removesuffix(">").rpartition(" <")
        when = f"{change.seconds} +0000"
        env = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email, "GIT_AUTHOR_DATE": when, **_COMMITTER}
        message = change.message.encode("utf-8", "replace")
        arguments = ("commit-tree", tree, "-p", parent, "-F", "-")
        return await self._run(*arguments, env={**env, "GIT_COMMITTER_DATE": when}, stdin=message)


def _entries(diff: str) -> list[tuple[str, str]]:
    """Return path and line for `update-index --index-info` of each change."""
    fields = iter(diff.split("\0"))
    found = []
    for about in fields:
        if not about:
            continue
        _, mode, _, sha, _ = about.split()
        path = next(fields)
        found.append((path, f"{mode} {sha}\t{path}" if mode != "000000" else f"0 {'0' * 40}\t{path}"))
    return found
