"""The last step before the agent's `exec`: put this process and all its descendants into the sandbox.

Runs in the supervisor's forked child, so: standard library only, and of nono-py just the extension module (its package
pulls in 0.4 s of imports that are not needed here). A second filter closes what nono-py leaves open:

- `MSG_FASTOPEN` connects without Landlock's network rules (seen to reach a forbidden port);
- UNIX sockets by path are outside Landlock before ABI 9, and a container runtime's socket is worth a root shell;
- SysV and POSIX queues and segments and memfds hold memory that no process accounts for, and outlive it;
- limits, priority and affinity of another process of the same user can be set without a ptrace check;
- user namespaces, keyrings, `ptrace` relatives of the kernel and 32-bit entry points are attack surface without use.
"""

from __future__ import annotations

import errno
import os
import resource
import struct
from importlib.machinery import ExtensionFileLoader, ModuleSpec

from ocf.functions.core import syscalls

TYPE_CHECKING = False  # importing `typing` costs as much as entering the sandbox
if TYPE_CHECKING:
    from typing import Any

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_AF_UNIX = 1
_MSG_FASTOPEN = 0x20000000
_CLONE_NEW_ANY = 0x7E020000  # the CLONE_NEW* flags that clone(2) takes

# Refused with EPERM whatever the arguments: (x86_64, aarch64).
_REFUSED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# Answered with ENOSYS, so that callers fall back to older calls.
_ABSENT = {"clone3": (435, 435), "memfd_create": (319, 279), "memfd_secret": (447, 447)}
# Refused when a flag is set: (number per architecture, argument index, mask).
_BY_FLAG = (
    ((44, 206), 3, _MSG_FASTOPEN),  # sendto
    ((46, 211), 2, _MSG_FASTOPEN),  # sendmsg
    ((307, 269), 3, _MSG_FASTOPEN),  # sendmmsg
    ((56, 220), 0, _CLONE_NEW_ANY),  # clone
)
# Allowed for the caller itself (0), refused for any other process: Landlock does not check these calls, and a function
# whose limit of open files is set to 1 is as good as dead. (number per architecture, argument index of the process)
_SELF_ONLY = (
    ((302, 261), 0),  # prlimit64
    ((203, 122), 0),  # sched_setaffinity
    ((144, 119), 0),  # sched_setscheduler
    ((142, 118), 0),  # sched_setparam
    ((314, 274), 0),  # sched_setattr
)
# The same for calls whose first argument gives the number's meaning: for a process group or user, 0 means all of its
# processes. (number per architecture, value that means a process)
_SELF_ONLY_WHICH = (
    ((141, 140), 0),  # setpriority, PRIO_PROCESS
    ((251, 30), 1),  # ioprio_set, IOPRIO_WHO_PROCESS
)
# An undumpable process hides its descriptors from the supervisor's count; nobody may read its memory anyway, so the
# call (ssh-agent makes it) does nothing and reports success.
_PRCTL = (157, 167)
_SOCKET = (41, 198)

# Classic BPF (linux/bpf_common.h) and seccomp's answers.
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def filter_program(machine: str) -> bytes:
    """Return the seccomp filter for `machine` (`uname -m`) as `struct sock_filter`s.

    Raises:
        OSError: there is no table for that architecture.
    """
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    column = list(_AUDIT_ARCH).index(machine)
    deny, absent = _op(_RETURN, _ERRNO | errno.EPERM), _op(_RETURN, _ERRNO | errno.ENOSYS)
    out = [_op(_LOAD, _ARCH), _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0), deny, _op(_LOAD, _NR)]
    # Linux's x32 entry points are the same calls under other numbers.
    out += [_op(_JUMP_ABOVE, 0x40000000, 0, 1), deny]
    for numbers in _REFUSED.values():
        out += [_op(_JUMP_EQUAL, numbers[column], 0, 1), deny]
    for numbers in _ABSENT.values():
        out += [_op(_JUMP_EQUAL, numbers[column], 0, 1), absent]
    allow = _op(_RETURN, _ALLOW)
    for numbers, argument, mask in _BY_FLAG:
        test = [_op(_LOAD, _ARGS + 8 * argument), _op(_JUMP_SET, mask, 0, 1), deny, allow]
        out += [_op(_JUMP_EQUAL, numbers[column], 0, len(test)), *test]
    for numbers, argument in _SELF_ONLY:
        test = [_op(_LOAD, _ARGS + 8 * argument), _op(_JUMP_EQUAL, 0, 1, 0), deny, allow]
        out += [_op(_JUMP_EQUAL, numbers[column], 0, len(test)), *test]
    for numbers, process in _SELF_ONLY_WHICH:
        test = [_op(_LOAD, _ARGS), _op(_JUMP_EQUAL, process, 0, 2)]
        test += [_op(_LOAD, _ARGS + 8), _op(_JUMP_EQUAL, 0, 1, 0), deny, allow]
        out += [_op(_JUMP_EQUAL, numbers[column], 0, len(test)), *test]
    done = _op(_RETURN, _ERRNO)
    test = [_op(_LOAD, _ARGS), _op(_JUMP_EQUAL, syscalls.PR_SET_DUMPABLE, 0, 1), done, allow]
    out += [_op(_JUMP_EQUAL, _PRCTL[column], 0, len(test)), *test]
    test = [_op(_LOAD, _ARGS), _op(_JUMP_EQUAL, _AF_UNIX, 0, 1), deny, allow]
    out += [_op(_JUMP_EQUAL, _SOCKET[column], 0, len(test)), *test, allow]
    return b"".join(out)


def load(path: str) -> Any:  # noqa: ANN401 - an extension module without its package's stubs
    """Return nono-py's extension module from `path`."""
    loader = ExtensionFileLoader("_nono_py", path)
    module = loader.create_module(ModuleSpec("_nono_py", loader, origin=path))
    loader.exec_module(module)
    return module


def limit_resources(open_files: int) -> None:
    """Forbid core dumps (they hold the agent's token) and limit the number of open files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    bound = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (bound, bound))


def confine(plan: dict[str, Any], nono: Any) -> None:  # noqa: ANN401
    """Enter the sandbox described by `sandbox.plan`, with the extension from `load`; irreversible.

    Raises:
        OSError, RuntimeError, ImportError: a part of it could not be set up; the caller must not go on.
    """
    mode = nono.AccessMode
    caps = nono.CapabilitySet()
    for paths, access in ((plan["read_only"], mode.READ), (plan["read_write"], mode.READ_WRITE)):
        for path in paths:
            (caps.allow_path if os.path.isdir(path) else caps.allow_file)(path, access)
    if plan["network"]:
        caps.block_network()
        for port in plan["connect_ports"]:
            caps.allow_tcp_connect_port(port)
        if plan["bind_port"] is not None:
            caps.allow_bind_port(plan["bind_port"])
    syscalls.drop_capabilities()
    if plan["seccomp"]:
        nono.apply_seccomp(caps)
        syscalls.install_filter(filter_program(os.uname().machine))
    else:
        nono.apply(caps)
