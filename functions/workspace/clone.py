"""The git source: a shallow clone whose token touches neither disk, nor command line, nor the remote's URL."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from events.models import GitWorkspace
from functions.workspace.errors import InvalidWorkspace
from functions.workspace.git import Git, GitFailed

_SCP = re.compile(r"^(?:[A-Za-z0-9._-]+@)?([A-Za-z0-9.-]+):(?!//)([^\s]+)$")
_BAD_REF = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^/|/$|\.$|\.lock$|^-")
_FULL_SHA = re.compile(r"^[0-9a-f]{40}$")
_SHORT_SHA = re.compile(r"^[0-9a-f]{7,39}$")


@dataclass(frozen=True)
class Remote:
    """A checked address: what git is given, its scheme, its origin (`https://host:port`), its host."""

    url: str
    scheme: str
    origin: str
    host: str


def check_url(url: str, protocols: frozenset[str], roots: tuple[Path, ...]) -> Remote:
    """What may be cloned: the protocols allowed, and `file` only below one of `roots` (already resolved).

    Raises:
        InvalidWorkspace: anything else, among it `ext::` and addresses that carry a password.
    """
    if re.search(r"[\x00-\x20\x7f]", url) or url.startswith("-") or "::" in url.split("/", 1)[0]:
        raise InvalidWorkspace(
            f"git url {_shown(url)!r} is not a plain address such as https://example.com/team/app.git"
        )
    scp = _SCP.match(url)
    if scp and "://" not in url:
        url = f"ssh://{url.replace(':', '/', 1)}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidWorkspace(f"git url {_shown(url)!r} has no valid host and port") from None
    scheme = parts.scheme.lower()
    if scheme == "file":
        return _local(parts.path, roots)
    if scheme not in protocols - {"file"}:
        raise InvalidWorkspace(
            f"git url scheme {scheme or 'none'!r} is not allowed; use {', '.join(sorted(protocols))}"
        )
    if not host or host.startswith("-"):
        raise InvalidWorkspace(f"git url {_shown(url)!r} names no host")
    if parts.password is not None or (parts.username and scheme != "ssh"):
        raise InvalidWorkspace("a git url must not carry credentials; put the token, sealed, into workspace.token")
    shown = f"[{host}]" if ":" in host else host
    return Remote(url, scheme, f"{scheme}://{shown}{f':{port}' if port else ''}", host)


async def clone(source: GitWorkspace, remote: Remote, target: Path, git: Git, token: str | None) -> str | None:
    """Clone into the empty directory `target`; return the commit checked out, None for a repository without any.

    Raises:
        InvalidWorkspace: no such repository, ref or access; or not in time.
    """
    await _check_host(remote)
    env = _credentials(remote, git, token)
    try:
        return await _clone(source, remote, target, git, env)
    except GitFailed as error:
        said = str(error).replace(token, "[token]") if token else str(error)
        raise InvalidWorkspace(f"git could not clone {remote.url}: {said}") from None
    finally:
        git.set_up()


async def _clone(source: GitWorkspace, remote: Remote, target: Path, git: Git, env: Mapping[str, str]) -> str | None:
    await git.run(["init", "--quiet", "."], cwd=target)
    await git.run(["remote", "add", "origin", remote.url], cwd=target)
    listed = await _list_remote(source.ref, target, git, env)
    depth = [f"--depth={source.depth}"]
    fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
    ref = source.ref
    if ref is None and "HEAD" not in listed:
        return None
    branch = await _branch(ref, listed)
    if branch:
        spec = f"+refs/heads/{branch}:refs/remotes/origin/{branch}"
        await git.run([*fetch, *depth, "origin", spec], cwd=target, env=env)
        await git.run(["checkout", "--quiet", "-B", branch, "--track", f"refs/remotes/origin/{branch}"], cwd=target)
    elif ref and (tag := ref.removeprefix("refs/tags/")) and f"refs/tags/{tag}" in listed:
        await git.run([*fetch, *depth, "origin", f"+refs/tags/{tag}:refs/tags/{tag}"], cwd=target, env=env)
        await git.run(["checkout", "--quiet", "--detach", f"refs/tags/{tag}"], cwd=target)
    else:
        commit = ref if ref else listed["HEAD"]
        await _fetch_commit(commit, fetch, depth, target, git, env)
        await git.run(["checkout", "--quiet", "--detach", commit], cwd=target)
    if source.submodules:
        update = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]
        await git.run(update, cwd=target, env=env)
    return (await git.run(["rev-parse", "--verify", "HEAD"], cwd=target)).decode().strip()


async def _list_remote(ref: str | None, target: Path, git: Git, env: Mapping[str, str]) -> dict[str, str]:
    """Names of the remote (`HEAD` and those that `ref` may mean) with their objects; `@HEAD` is HEAD's branch."""
    if ref is not None and _BAD_REF.search(ref):
        raise InvalidWorkspace(f"ref {ref!r} is no branch, tag or commit id")
    name = (ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")
    wanted = ["HEAD", *((f"refs/heads/{name}", f"refs/tags/{name}") if name else ())]
    out = await git.run(["ls-remote", "--quiet", "--symref", "origin", *wanted], cwd=target, env=env)
    listed: dict[str, str] = {}
    for line in out.decode(errors="replace").splitlines():
        value, _, found = line.partition("\t")
        if value.startswith("ref: ") and found == "HEAD":
            listed["@HEAD"] = value.removeprefix("ref: refs/heads/")
        elif found in wanted:  # ls-remote also lists names that merely end like that
            listed[found] = value
    return listed


async def _branch(ref: str | None, listed: Mapping[str, str]) -> str | None:
    if ref is None:
        return listed.get("@HEAD")
    if ref.startswith("refs/tags/"):
        return None
    name = ref.removeprefix("refs/heads/")
    return name if f"refs/heads/{name}" in listed else None


async def _fetch_commit(
    commit: str, fetch: list[str], depth: list[str], target: Path, git: Git, env: Mapping[str, str]
) -> None:
    everything = "+refs/heads/*:refs/remotes/origin/*"
    if _FULL_SHA.match(commit):
        try:
            await git.run([*fetch, *depth, "origin", commit], cwd=target, env=env)
        except GitFailed:
            # Some servers give only the tips of branches by id; then the whole history has to come.
            await git.run([*fetch, "origin", everything], cwd=target, env=env)
    elif _SHORT_SHA.match(commit):
        await git.run([*fetch, "origin", everything], cwd=target, env=env)
    else:
        raise InvalidWorkspace(f"the repository has no branch, tag or commit {commit!r}")


def _credentials(remote: Remote, git: Git, token: str | None) -> dict[str, str]:
    """Let git ask for the token, for this origin only; it stands in the environment of git and nowhere else."""
    if token is None:
        return {}
    if remote.scheme not in ("http", "https"):
        raise InvalidWorkspace("workspace.token needs an https url")
    if remote.scheme == "http" and remote.host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidWorkspace("workspace.token would cross the network in clear text; use https")
    if not token.isascii() or not token.isprintable() or not token:
        raise InvalidWorkspace("workspace.token is not printable ASCII")
    helper = (
        r"""!f() { test \"$1\" = get && printf 'username=x-access-token\\npassword=%s\\n' \"$OCF_GIT_TOKEN\"; }; f"""
    )
    git.set_up(f'[credential "{remote.origin}"]\n\thelper = "{helper}"\n')
    return {"OCF_GIT_TOKEN": token}


async def _check_host(remote: Remote) -> None:
    """Cloud metadata services live on link-local addresses, and answer whoever asks from inside."""
    if not remote.host:
        return
    try:
        found = await asyncio.get_running_loop().getaddrinfo(remote.host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidWorkspace(f"git host {remote.host!r} cannot be found: {error.strerror or error}") from None
    for *_, address in found:
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_link_local:
            raise InvalidWorkspace(f"git host {remote.host!r} has a link-local address, which is not allowed")


def _local(path: str, roots: tuple[Path, ...]) -> Remote:
    resolved = Path(path).resolve()
    if not any(resolved.is_relative_to(root) for root in roots):
        raise InvalidWorkspace("file:// is allowed only below WORKSPACE_SOURCES")
    if not resolved.is_dir():
        raise InvalidWorkspace(f"there is no repository at file://{path}")
    return Remote(f"file://{resolved}", "file", "file://", "")


def _shown(url: str) -> str:
    """The address without what may be a secret in it."""
    return re.sub(r"//[^/@]*@", "//", url)[:200]
