"""Git source: a shallow clone whose token reaches neither the disk, nor the command line, nor the remote's URL."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ocf.events.command_payloads import GitWorkspace
from ocf.functions.core.address_rules import Reach, is_forbidden, literal, resolve, worst_reach
from ocf.functions.workspace.allowed_roots import Roots
from ocf.functions.workspace.errors import InvalidWorkspace
from ocf.functions.workspace.git import Git, GitFailed

_SCP = re.compile(r"^(?:[A-Za-z0-9._-]+@)?([A-Za-z0-9.-]+):(?!//)([^\s]+)$")
_BAD_REF = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^/|/$|\.$|\.lock$|^-")
_FULL_SHA = re.compile(r"^[0-9a-f]{40}$")
_SHORT_SHA = re.compile(r"^[0-9a-f]{7,39}$")
#: Host names that a configuration of git and curl can hold without quoting; other alphabets in punycode.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_PORTS = {"http": 80, "https": 443}
#: In all, at any depth. Each is a connection of its own to a host that its repository chooses.
MAX_SUBMODULES = 100


@dataclass(frozen=True)
class Remote:
    """A checked address: URL for git, scheme, origin (`https://host:port`), host and port."""

    url: str
    scheme: str
    origin: str
    host: str
    port: int = 0


def check_url(url: str, protocols: frozenset[str], roots: Roots) -> Remote:
    """Check the address of a clone: an allowed protocol, and `file` only where `roots` allow it.

    Raises:
        InvalidWorkspace: any other address, such as `ext::` or one with a password.
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
    if not _HOST.fullmatch(host):
        raise InvalidWorkspace(f"git url {_shown(url)!r} has no valid host (letters, digits, dots and hyphens)")
    if parts.password is not None or (parts.username and scheme != "ssh"):
        raise InvalidWorkspace("a git url must not carry credentials; put the token, sealed, into workspace.token")
    shown = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{shown}{f':{port}' if port else ''}"
    return Remote(url, scheme, origin, host, port or _PORTS.get(scheme, 0))


async def clone(
    source: GitWorkspace, remote: Remote, target: Path, git: Git, token: str | None, roots: Roots
) -> str | None:
    """Clone into the empty directory `target`; return the commit checked out, None for an empty repository.

    Raises:
        InvalidWorkspace: no such repository, ref or access; or not in time.
    """
    network = Network(git, roots, credential_config(remote, token))
    env = {"OCF_GIT_TOKEN": token} if token is not None else {}
    try:
        async with asyncio.timeout(git.timeout):
            await network.admit(remote)
            commit = await _clone(source, remote, target, git, env)
            if source.submodules and commit is not None:
                await _submodules(target, git, env, network)
            return commit
    except TimeoutError:
        raise InvalidWorkspace(f"git could not clone {remote.url}: it took longer than {git.timeout:g} s") from None
    except GitFailed as error:
        message = str(error).replace(token, "[token]") if token else str(error)
        raise InvalidWorkspace(f"git could not clone {remote.url}: {message}") from None
    finally:
        git.set_up()


class Network:
    """Hosts git may connect to: each at its checked addresses; the token only for its own origin.

    git would resolve a name a second time and might get another answer, so its configuration pins the checked
    addresses.
    """

    def __init__(self, git: Git, roots: Roots, credential: str) -> None:
        self._git = git
        self._roots = roots
        self._credential = credential
        self._pins: dict[str, str] = {}

    async def admit_url(self, url: str) -> None:
        """Let git connect to the URL of a submodule.

        Raises:
            InvalidWorkspace: the URL or its host is not allowed.
        """
        await self.admit(check_url(url, frozenset(self._git.protocols), self._roots))

    async def admit(self, remote: Remote) -> None:
        """Let git connect to `remote`.

        Raises:
            InvalidWorkspace: the host is not allowed.
        """
        if remote.origin not in self._pins:
            self._pins[remote.origin] = await pinned(remote)
        pins = "".join(f'\tcurloptResolve = "{pin}"\n' for pin in self._pins.values() if pin)
        self._git.set_up(f"{self._credential}[http]\n{pins}" if pins else self._credential)


async def pinned(remote: Remote) -> str:
    """Return `HOST:PORT:ADDRESS,...` for git's `http.curloptResolve`; empty where there is no name to resolve.

    Raises:
        InvalidWorkspace: the host has no address, or one that `ocf.functions.core.address_rules` never allows.
    """
    if not remote.host:
        return ""
    try:
        if is_forbidden(remote.host):
            raise _refused(remote)
        addresses = await resolve(remote.host, remote.port)
    except OSError as error:
        raise InvalidWorkspace(f"git host {remote.host!r} cannot be found: {error.strerror or error}") from None
    if worst_reach(addresses) is Reach.NEVER:
        raise _refused(remote)
    if literal(remote.host) is not None:
        return ""
    shown = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
    return f"{remote.host}:{remote.port}:{shown}"


def _refused(remote: Remote) -> InvalidWorkspace:
    return InvalidWorkspace(
        f"git host {remote.host!r} has a link-local, metadata or reserved address, which is not allowed"
    )


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
        await fetch_commit(commit, fetch, depth, target, git, env)
        await git.run(["checkout", "--quiet", "--detach", commit], cwd=target)
    return (await git.run(["rev-parse", "--verify", "HEAD"], cwd=target)).decode().strip()


async def _submodules(target: Path, git: Git, env: Mapping[str, str], network: Network) -> None:
    """Fetch submodules level by level; each address is checked like the repository's before git connects."""
    left, trees = MAX_SUBMODULES, [target]
    while trees:
        tree = trees.pop()
        listed = await git.run(["ls-files", "--stage", "-z"], cwd=tree)
        paths = [entry.partition(b"\t")[2] for entry in listed.split(b"\0") if entry.startswith(b"160000 ")]
        if not paths:
            continue
        left -= len(paths)
        if left < 0:
            raise InvalidWorkspace(f"workspace.submodules: more than {MAX_SUBMODULES} of them")
        await git.run(["submodule", "--quiet", "init"], cwd=tree)
        for url in await _submodule_urls(tree, git):
            await network.admit_url(url)
        # Each is fetched from the checked URL that `init` wrote down.
        await git.run(["submodule", "--quiet", "update", "--depth=1"], cwd=tree, env=env)
        below = (tree / os.fsdecode(path) for path in paths)
        trees += [one for one in below if (one / ".git").exists() and one.resolve().is_relative_to(target.resolve())]


async def _submodule_urls(tree: Path, git: Git) -> list[str]:
    """Return the URLs of the submodules of `tree`, with relative addresses resolved."""
    wanted = ["config", "--local", "--null", "--get-regexp", r"^submodule\..*\.url$"]
    try:
        listed = await git.run(wanted, cwd=tree)
    except GitFailed:
        return []  # none is active, which git reports by its status
    return [entry.partition("\n")[2] for entry in listed.decode(errors="replace").split("\0") if entry]


async def _list_remote(ref: str | None, target: Path, git: Git, env: Mapping[str, str]) -> dict[str, str]:
    """Return `HEAD` and the candidates for `ref`, as `list_remote` does."""
    if ref is not None and _BAD_REF.search(ref):
        raise InvalidWorkspace(f"ref {ref!r} is not a branch, tag or commit id")
    name = (ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")
    return await list_remote(["HEAD", *((f"refs/heads/{name}", f"refs/tags/{name}") if name else ())], target, git, env)


async def list_remote(wanted: Sequence[str], target: Path, git: Git, env: Mapping[str, str]) -> dict[str, str]:
    """Return those of the `wanted` names that the remote has, with their objects; `@HEAD` is HEAD's branch."""
    out = await git.run(["ls-remote", "--quiet", "--symref", "origin", *wanted], cwd=target, env=env)
    listed: dict[str, str] = {}
    for line in out.decode(errors="replace").splitlines():
        value, _, found = line.partition("\t")
        if value.startswith("ref: ") and found == "HEAD":
            listed["@HEAD"] = value.removeprefix("ref: refs/heads/")
        elif found in wanted:  # ls-remote also lists names with the same ending
            listed[found] = value
    return listed


async def _branch(ref: str | None, listed: Mapping[str, str]) -> str | None:
    if ref is None:
        return listed.get("@HEAD")
    if ref.startswith("refs/tags/"):
        return None
    name = ref.removeprefix("refs/heads/")
    return name if f"refs/heads/{name}" in listed else None


async def fetch_commit(
    commit: str, fetch: list[str], depth: list[str], target: Path, git: Git, env: Mapping[str, str]
) -> None:
    """Fetch a commit by its id, whole or shortened; `fetch` and `depth` are git's arguments.

    Raises:
        InvalidWorkspace: it is no commit id.
        GitFailed: the remote does not have it, or does not answer.
    """
    everything = "+refs/heads/*:refs/remotes/origin/*"
    if _FULL_SHA.match(commit):
        try:
            await git.run([*fetch, *depth, "origin", commit], cwd=target, env=env)
        except GitFailed:
            # Some servers serve only the tips of branches by id; then the whole history is fetched.
            await git.run([*fetch, "origin", everything], cwd=target, env=env)
    elif _SHORT_SHA.match(commit):
        await git.run([*fetch, "origin", everything], cwd=target, env=env)
    else:
        raise InvalidWorkspace(f"the repository has no branch, tag or commit {commit!r}")


def credential_config(remote: Remote, token: str | None) -> str:
    """Return git's configuration for the token: this origin only, the token itself in git's environment.

    Raises:
        InvalidWorkspace: the token may not be sent there.
    """
    if token is None:
        return ""
    if remote.scheme not in ("http", "https"):
        raise InvalidWorkspace("workspace.token needs an https url")
    if remote.scheme == "http" and remote.host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidWorkspace("workspace.token would cross the network in clear text; use https")
    if not token.isascii() or not token.isprintable() or not token:
        raise InvalidWorkspace("workspace.token is not printable ASCII")
    helper = (
        r"""!f() { test \"$1\" = get && printf 'username=x-access-token\\npassword=%s\\n' \"$OCF_GIT_TOKEN\"; }; f"""
    )
    return f'[credential "{remote.origin}"]\n\thelper = "{helper}"\n'


def _local(path: str, roots: Roots) -> Remote:
    try:
        resolved = roots.find(path)
    except InvalidWorkspace as error:
        raise InvalidWorkspace(f"file:// is allowed only below WORKSPACE_SOURCES: {error}") from None
    return Remote(f"file://{resolved}", "file", "file://", "")


def _shown(url: str) -> str:
    """Return the address without possible secrets."""
    return re.sub(r"//[^/@]*@", "//", url)[:200]
