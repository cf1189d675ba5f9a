"""Sandbox policy of an execution, and the kernel's support for it (docs/explanation/security.md, ADR 0003).

The sandbox is nono-py: Landlock for files, TCP ports and signals, a static seccomp filter for the rest; no root, no
namespaces, no capabilities. `confine.py` enters it, in the child, before the agent's `exec`.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ocf.events.errors import OcfError
from ocf.functions.core import syscalls

SandboxMode = Literal["required", "preferred", "off"]

_MACHINES = ("x86_64", "aarch64")
_ABI_FILES = 3  # Linux 6.2: truncation is covered
_ABI_NETWORK = 4  # Linux 6.7
_ABI_SIGNALS = syscalls.SCOPE_ABI

# System paths that programs need to run. Never all of /etc: uid 0 could read its secrets.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"),
    # Other processes' environ, memory, maps and descriptors stay closed: Landlock refuses the ptrace check behind them.
    *("/proc", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage"),
)
_ETC = (
    *("alternatives", "bash.bashrc", "bash_completion.d", "ca-certificates", "ca-certificates.conf", "crypto-policies"),
    *("debian_version", "environment", "fonts", "gai.conf", "gitattributes", "gitconfig", "group", "host.conf"),
    *("hostname", "hosts", "inputrc", "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime"),
    *("login.defs", "lsb-release", "magic", "mime.types", "nsswitch.conf", "os-release", "passwd", "pip.conf", "pki"),
    *("profile", "profile.d", "protocols", "python3", "resolv.conf", "rpc", "services", "shells", "skel"),
    *("ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone", "xattr.conf"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")


class SandboxUnavailable(OcfError):
    """This kernel cannot provide the sandbox that `SANDBOX=required` asks for."""


@dataclass(frozen=True)
class SandboxPolicy:
    """Paths and ports that one execution may use beside the system's. Every path must exist at the agent's start.

    Ports are TCP ports; Landlock does not check the host, so only give ports of our own loopback listeners.
    """

    read_write: tuple[Path, ...]
    read_only: tuple[Path, ...] = ()
    connect_ports: tuple[int, ...] = ()
    bind_port: int | None = None


@dataclass(frozen=True)
class SandboxSupport:
    """Sandbox features of this machine. `missing` names each absent feature; empty: everything is supported."""

    landlock_abi: int
    filesystem: bool
    network: bool
    signals: bool
    seccomp: bool
    missing: tuple[str, ...]


def _seccomp_available() -> bool:
    # The file exists exactly when the kernel supports filters; it may be read without privileges.
    return platform.machine() in _MACHINES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def nono_extension() -> Path | None:
    """Return the path of nono-py's extension module, without importing the package."""
    spec = find_spec("nono_py")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("_nono_py*.so")):
            return path.resolve()
    return None


def sandbox_support() -> SandboxSupport:
    """Return what the kernel supports; takes about a millisecond and changes nothing."""
    if sys.platform != "linux":
        return SandboxSupport(0, False, False, False, False, ("Linux (Landlock and seccomp are parts of it)",))
    if nono_extension() is None:
        return SandboxSupport(syscalls.landlock_abi(), False, False, False, False, ("the package nono-py",))
    return support_of(syscalls.landlock_abi(), _seccomp_available())


def support_of(abi: int, seccomp: bool) -> SandboxSupport:
    """Return what a Linux kernel with this Landlock ABI (0: none) can enforce."""
    wanted = (
        (abi >= _ABI_FILES, f"Landlock file rules (ABI {_ABI_FILES}, Linux 6.2)"),
        (abi >= _ABI_NETWORK, f"Landlock network rules (ABI {_ABI_NETWORK}, Linux 6.7)"),
        (abi >= _ABI_SIGNALS, f"Landlock signal scoping (ABI {_ABI_SIGNALS}, Linux 6.12)"),
        (seccomp, f"seccomp filters on {' or '.join(_MACHINES)}"),
    )
    missing = tuple(name for there, name in wanted if not there)
    return SandboxSupport(abi, abi >= _ABI_FILES, abi >= _ABI_NETWORK, abi >= _ABI_SIGNALS, seccomp, missing)


def decide(mode: SandboxMode, support: SandboxSupport) -> bool:
    """Return whether executions run in a sandbox.

    `preferred` takes what the kernel supports: file rules at least, network rules and seccomp where available.

    Raises:
        SandboxUnavailable: `required`, and a feature is missing; one line that names it and the override.
    """
    if mode == "off":
        return False
    if mode == "required" and support.missing:
        raise SandboxUnavailable(
            f"SANDBOX=required, but this machine lacks {', '.join(support.missing)}; "
            "set SANDBOX=preferred to run with what it has, or SANDBOX=off to run without"
        )
    return support.filesystem


def system_paths() -> tuple[list[str], list[str]]:
    """Return the system's existing paths (read-only, read-write). No home directories, no `/tmp`, no `/run`."""
    read_only = [path for path in (*_SYSTEM, *(f"/etc/{name}" for name in _ETC)) if os.path.exists(path)]
    return read_only, [path for path in _DEVICES if os.path.exists(path)]


def plan(policy: SandboxPolicy, support: SandboxSupport) -> dict[str, Any]:
    """Return the policy as JSON for `confine.confine`.

    Raises:
        SandboxUnavailable: nono-py is not installed.
        FileNotFoundError: a path of the policy does not exist; naming it here beats a half-open sandbox.
    """
    extension = nono_extension()
    if extension is None:
        raise SandboxUnavailable("the sandbox needs the package nono-py; install it or set SANDBOX=off")
    for path in (*policy.read_write, *policy.read_only):
        if not path.exists():
            raise FileNotFoundError(f"the sandbox names a path that does not exist: {path}")
    read_only, read_write = system_paths()
    return {
        "nono": str(extension),
        "read_only": [*read_only, *map(str, policy.read_only)],
        "read_write": [*read_write, *map(str, policy.read_write)],
        "connect_ports": list(policy.connect_ports),
        "bind_port": policy.bind_port,
        "network": support.network,
        "seccomp": support.seccomp,
    }
