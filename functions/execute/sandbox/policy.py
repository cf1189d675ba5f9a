"""Which sandbox an execution gets, and whether this kernel can give it (docs/explanation/security.md, ADR 0003).

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

# What programs need of the system to run at all. Never all of /etc: uid 0 could read its secrets.
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
    """This kernel cannot give the sandbox that `SANDBOX=required` asks for."""


@dataclass(frozen=True)
class SandboxPolicy:
    """What one execution may touch beside the system. Every path must exist when the agent starts.

    Ports are TCP ports; Landlock does not look at the host, so only give ports of our own loopback listeners.
    """

    read_write: tuple[Path, ...]
    read_only: tuple[Path, ...] = ()
    connect_ports: tuple[int, ...] = ()
    bind_port: int | None = None


@dataclass(frozen=True)
class SandboxSupport:
    """What this machine can enforce. `missing` names each absent feature in words; empty means everything is there."""

    landlock_abi: int
    filesystem: bool
    network: bool
    signals: bool
    seccomp: bool
    missing: tuple[str, ...]


def _seccomp_available() -> bool:
    # The file is there exactly when the kernel takes filters; it may be read without privileges.
    return platform.machine() in _MACHINES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def nono_extension() -> Path | None:
    """Where nono-py's extension module is, without importing the package."""
    spec = find_spec("nono_py")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("_nono_py*.so")):
            return path.resolve()
    return None


def sandbox_support() -> SandboxSupport:
    """Ask the kernel; about a millisecond, nothing is changed."""
    if sys.platform != "linux":
        return SandboxSupport(0, False, False, False, False, ("Linux (Landlock and seccomp are parts of it)",))
    if nono_extension() is None:
        return SandboxSupport(syscalls.landlock_abi(), False, False, False, False, ("the package nono-py",))
    return support_of(syscalls.landlock_abi(), _seccomp_available())


def support_of(abi: int, seccomp: bool) -> SandboxSupport:
    """What a Linux kernel with this Landlock ABI (0: none) can enforce."""
    wanted = (
        (abi >= _ABI_FILES, f"Landlock file rules (ABI {_ABI_FILES}, Linux 6.2)"),
        (abi >= _ABI_NETWORK, f"Landlock network rules (ABI {_ABI_NETWORK}, Linux 6.7)"),
        (abi >= _ABI_SIGNALS, f"Landlock signal scoping (ABI {_ABI_SIGNALS}, Linux 6.12)"),
        (seccomp, f"seccomp filters on {' or '.join(_MACHINES)}"),
    )
    missing = tuple(name for there, name in wanted if not there)
    return SandboxSupport(abi, abi >= _ABI_FILES, abi >= _ABI_NETWORK, abi >= _ABI_SIGNALS, seccomp, missing)


def decide(mode: SandboxMode, support: SandboxSupport) -> bool:
    """Whether executions run in a sandbox.

    `preferred` takes what there is: file rules at least, network rules and seccomp where the kernel has them.

    Raises:
        SandboxUnavailable: `required`, and something is missing; one line that names it and the override.
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
    """The system's paths that exist here, (read-only, read-write). No home directories, no `/tmp`, no `/run`."""
    read_only = [path for path in (*_SYSTEM, *(f"/etc/{name}" for name in _ETC)) if os.path.exists(path)]
    return read_only, [path for path in _DEVICES if os.path.exists(path)]


def plan(policy: SandboxPolicy, support: SandboxSupport) -> dict[str, Any]:
    """The policy as JSON for `confine.confine`.

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
