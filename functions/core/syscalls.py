"""System calls without a function in Python. Uses only the standard library, because `supervisor.py` imports it.

The numbers are from the kernel's headers (`prctl.h`, `landlock.h`, `seccomp.h`, `capability.h`). Those of
Landlock are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

TYPE_CHECKING = False  # `typing` and `contextlib` would slow the supervisor's start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_ACCESS_FS_REFER = 1 << 13
_LANDLOCK_SCOPE_SIGNAL = 2
#: First Landlock ABI that can scope signals to the domain (Linux 6.12).
SCOPE_ABI = 6

_CAPABILITY_VERSION_3 = 0x20080522
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SETGID, CAP_SETUID = 0, 1, 3, 5, 6, 7
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_NICE = 19, 21, 23

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> int:
    """Make the system call `prctl`.

    Raises:
        OSError: The kernel refused.
    """
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc().prctl(option, *padded), f"prctl {option}")


def unshare(flags: int) -> None:
    """Make the system call `unshare`. Raises OSError."""
    _check(_libc().unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Make the system call `mount`. Raises OSError."""
    encoded = [os.fsencode(text) or None for text in (source, target, kind)]
    _check(_libc().mount(*encoded, ctypes.c_ulong(flags), os.fsencode(options) or None), f"mount {target}")


def switch_user(uid: int, gid: int) -> None:
    """Change the process's user irreversibly, with `gid` as the only group and PR_SET_NO_NEW_PRIVS.

    The kernel then makes the process undumpable and clears PR_SET_PDEATHSIG. This function restores the first, so that
    the new user may inspect the process; the caller must restore the second.

    Raises:
        OSError: The kernel refused, or the process still has another user or group.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or os.getgroups():
        raise OSError(f"the process did not become user {uid}")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 1)


def set_fs_user(uid: int, gid: int) -> None:
    """Set the user and group of this thread's file accesses (setfsuid(2), setfsgid(2)); 0, 0 restores root.

    Root without CAP_SYS_PTRACE may not read another user's `/proc/PID/fd`, but that user may.
    """
    # The order matters: without fsuid 0 the group cannot be changed back.
    order = (("setfsgid", gid), ("setfsuid", uid)) if uid else (("setfsuid", uid), ("setfsgid", gid))
    for name, value in order:
        getattr(_libc(), name)(value)


def call_as_fs_user(user: tuple[int, int] | None, call: Callable[[], T]) -> T:
    """Return `call()`, called with the file access rights of `user`; without a user, with those of the process."""
    if user is None:
        return call()
    set_fs_user(*user)
    try:
        return call()
    finally:
        set_fs_user(os.geteuid(), os.getegid())


def capabilities() -> set[int]:
    """Return the effective capabilities of this thread."""
    with open("/proc/thread-self/status") as status:
        line = next((line for line in status if line.startswith("CapEff:")), "CapEff:\t0")
    held = int(line.split()[1], 16)
    return {number for number in range(64) if held >> number & 1}


def keep_capabilities(allowed: set[int]) -> None:
    """Drop all effective, permitted and inheritable capabilities except `allowed`. Raises OSError."""
    low = high = 0
    for number in allowed & capabilities():
        low, high = (low | 1 << number, high) if number < 32 else (low, high | 1 << number - 32)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(struct.pack("=IIIIII", low, low, 0, high, high, 0), 24)
    _check(_libc().capset(header, data), "capset")


def landlock_abi() -> int:
    """Return the Landlock ABI of this kernel; 0 if it has none or Landlock is disabled."""
    if sys.platform != "linux":
        return 0
    call = _libc().syscall
    found = int(call(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION))
    return max(found, 0)


def scope_signals() -> bool:
    """Enter a Landlock domain that confines signals; irreversible, inherited by later children.

    Returns True only after a test: a signal to the parent process, allowed before, is refused afterwards. Only then is
    `kill(-1)` safe, and reaches exactly the descendants of this process.
    """
    parent = os.getppid()
    if landlock_abi() < SCOPE_ABI or not _may_signal(parent):
        return False
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped. A domain forbids moving files between
    # folders unless it allows this explicitly, so this domain, which is only for signals, allows it.
    refer = _LANDLOCK_ACCESS_FS_REFER
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", refer, 0, _LANDLOCK_SCOPE_SIGNAL), 24)
    call = _libc().syscall
    ruleset = _check(call(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(24), 0), "landlock_create_ruleset")
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        # struct landlock_path_beneath_attr (packed): allowed_access, parent_fd
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", refer, root), 12)
        _check(call(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, beneath, 0), "landlock_add_rule")
        _check(call(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(root)
        os.close(ruleset)
    # If the parent has ended since, the test proves nothing.
    return os.getppid() == parent and not _may_signal(parent)


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (PermissionError, ProcessLookupError):
        return False
    return True


def drop_capabilities() -> None:
    """Drop every capability irreversibly, so that uid 0 is an ordinary user. No effect without capabilities.

    Raises:
        OSError: The kernel refused.
    """
    for capability in range(64):
        try:
            held = prctl(PR_CAPBSET_READ, capability)
        except OSError:
            break  # beyond the last capability of this kernel
        if held:
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except PermissionError:
                break  # without CAP_SETPCAP; no_new_privs makes the bounding set unreachable
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    keep_capabilities(set())


def install_filter(program: bytes) -> None:
    """Install a seccomp filter (`struct sock_filter`, 8 bytes per instruction); irreversible, inherited by children.

    Raises:
        OSError: The kernel refused.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }, padded to the pointer's alignment
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(fprog))


def protect_self() -> None:
    """Make this process undumpable: no core file, and no other process of the user may read or trace it.

    Landlock already excludes sandboxed agents. This protection also applies with `SANDBOX=off`, except against
    processes with CAP_SYS_PTRACE. Source: prctl(2), PR_SET_DUMPABLE.

    Raises:
        OSError: The kernel refused.
    """
    if sys.platform == "linux":
        prctl(PR_SET_DUMPABLE, 0)
