"""What a hostile program tries system call by system call; the sandbox's tests and the red team in a pod run it."""

from __future__ import annotations

import errno

# Runs the attempts of argv[1] (name -> code) and prints name -> "ok" or the errno.
PROBE = """
import ctypes, json, os, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
def tcp(port, host="127.0.0.1"):
    with socket.socket() as s:
        s.settimeout(3)
        s.connect((host, port))
def bind(port):
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
def fast_open(port):
    with socket.socket() as s:
        s.sendto(b"x", 0x20000000, ("127.0.0.1", port))
def fast_open_message(port):
    with socket.socket() as s:
        s.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port))
def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
def read(path):
    with open(path, "rb") as f:
        return f.read(1)
def write(path, mode="wb"):
    with open(path, mode) as f:
        f.write(b"x")
results = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        exec(code)
        results[name] = "ok"
    except OSError as error:
        results[name] = error.errno
    except Exception as error:
        results[name] = repr(error)
print(json.dumps(results), flush=True)
"""

DENIED = {errno.EACCES, errno.EPERM}
#: name -> (code, what the kernel answers when it is refused)
ATTACKS: dict[str, tuple[str, set[int]]] = {
    "list the function's home": ("os.listdir('/root')", DENIED),
    "list the root directory": ("os.listdir('/')", DENIED),
    "read a secret of the system": ("read('/etc/shadow')", DENIED),
    "read another execution's workspace": ("read({neighbour!r} + '/secret')", DENIED),
    "list the folder of all workspaces": ("os.listdir(os.path.dirname({neighbour!r}))", DENIED),
    "read it through a symlink": ("os.symlink({neighbour!r}, 'link'); read('link/secret')", DENIED),
    "read it through a hard link": ("os.link({neighbour!r} + '/secret', 'hard')", DENIED | {errno.EXDEV}),
    "write outside": ("write({neighbour!r} + '/new')", DENIED),
    "change a file outside": ("write({neighbour!r} + '/secret', 'ab')", DENIED),
    "truncate a file outside": ("os.truncate({neighbour!r} + '/secret', 0)", DENIED),
    "remove a file outside": ("os.unlink({neighbour!r} + '/secret')", DENIED),
    "move a file out": ("write('mine'); os.rename('mine', {neighbour!r} + '/mine')", DENIED | {errno.EXDEV}),
    "make a folder outside": ("os.mkdir({neighbour!r} + '/new')", DENIED),
    "write to the system": ("write('/usr/bin/new')", DENIED),
    "write to the shared temporary folder": ("write('/tmp/new-file-of-the-agent')", DENIED),
    "write to shared memory": ("write('/dev/shm/new-file-of-the-agent')", DENIED),
    "open a disk": (
        "read('/dev/' + next(d for d in ('vda', 'sda', 'nvme0n1', 'loop0', 'mem')))",
        DENIED | {errno.ENOENT},
    ),
    "make a device": ("os.mknod('device', 0o20600, os.makedev(1, 1))", DENIED),
    "mount": ("call(165, b'none', os.getcwdb(), b'tmpfs', 0, None)", DENIED),
    "read the function's environment": ("read('/proc/{function}/environ')", DENIED),
    "read the first process's environment": ("read('/proc/1/environ')", DENIED),
    "read the supervisor's environment": ("read(f'/proc/{{{supervisor}}}/environ')", DENIED),
    "read the function's memory": ("read('/proc/{function}/mem')", DENIED),
    "read the function's map": ("read('/proc/{function}/maps')", DENIED),
    "name the function's files": ("os.readlink('/proc/{function}/fd/0')", DENIED),
    "open the function's files": ("read('/proc/{function}/fd/0')", DENIED),
    "reach files through the function's root": ("os.listdir('/proc/{function}/root/root')", DENIED),
    "trace the function": ("call(101, 16, {function}, 0, 0)", DENIED),
    "copy the function's memory": (
        # The last argument is on the stack, where half of a C int is whatever was there.
        "b = ctypes.create_string_buffer(8); v = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8);"
        "call(310, {function}, v, 1, v, 1, ctypes.c_long(0))",
        DENIED,
    ),
    "take a descriptor of the function": (
        "fd = libc.syscall(434, {function}, 0); call(438, fd, 0, 0)",
        DENIED,
    ),
    "take the function's limits away": ("call(302, {function}, 7, 0, 0)", DENIED),
    "slow the function down": ("os.setpriority(os.PRIO_PROCESS, {function}, 19)", DENIED),
    "slow every process of the user down": ("os.setpriority(os.PRIO_USER, 0, 19)", DENIED),
    "slow every process of the group down": ("os.setpriority(os.PRIO_PGRP, 0, 19)", DENIED),
    "stop disk access of every process of the user": ("call(251, 3, 0, 3 << 13)", DENIED),
    "pin the function to one core": ("os.sched_setaffinity({function}, {{0}})", DENIED),
    "change kernel settings": ("write('/proc/sys/kernel/core_pattern')", DENIED),
    "become the last to be killed": ("write('/proc/self/oom_score_adj')", DENIED),
    "signal the function": ("os.kill({function}, 0)", DENIED),
    "signal the supervisor": ("os.kill({supervisor}, 0)", DENIED),
    "signal the first process": ("os.kill(1, 0)", DENIED),
    "connect to another port": ("tcp({other_port})", DENIED),
    "connect to the metadata address": ("tcp(80, '169.254.169.254')", DENIED),
    "connect by fast open": ("fast_open({other_port})", DENIED),
    "connect by fast open, sendmsg": ("fast_open_message({other_port})", DENIED),
    "connect by multipath TCP": ("socket.socket(2, 1, 262).connect(('127.0.0.1', {other_port}))", DENIED),
    "send a datagram": ("socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 53))", DENIED),
    "send a datagram over IPv6": ("socket.socket(10, 2)", DENIED),
    "open a raw socket": ("socket.socket(2, 3, 1)", DENIED),
    "open a packet socket": ("socket.socket(17, 3)", DENIED),
    "talk netlink": ("socket.socket(16, 3)", DENIED),
    "talk to the hypervisor": ("socket.socket(40, 1)", DENIED),
    "connect to a service's UNIX socket": ("unix({unix!r})", DENIED),
    "listen on another port": ("bind({other_port} + 1)", DENIED),
    "use io_uring": ("call(425, 8, 0)", DENIED),
    "make a user namespace": ("call(272, 0x10000000)", DENIED),
    "clone into a user namespace": ("call(56, 0x10000011, 0, 0, 0, 0)", DENIED),
    "clone3 into a user namespace": ("call(435, 0, 0)", {errno.ENOSYS}),
    "read the keyring": ("call(250, 0, -3, 0)", DENIED),
    "load a BPF program": ("call(321, 0, 0, 0)", DENIED),
    "watch the processor": ("call(298, 0, 0, 0, 0, 0)", DENIED),
    "handle page faults": ("call(323, 0)", DENIED),
    "open a file by its handle": ("call(304, -100, 0, 0)", DENIED),
    "hold memory outside every process, SysV": ("call(29, 0, 4096, 0o1600)", DENIED),
    "hold memory outside every process, POSIX": ("call(240, b'q', 0o102, 0o600, 0)", DENIED),
    "hold memory outside every process, memfd": ("os.memfd_create('x')", {errno.ENOSYS}),
    "set the clock": ("import time; time.clock_settime(0, time.time())", DENIED),
    "restart the machine": ("call(169, 0, 0, 0, 0)", DENIED),
    "load a kernel module": ("call(175, 0, 0, b'')", DENIED),
    "change the root": ("os.chroot('.')", DENIED),
    "enter a namespace": ("call(308, os.open('/proc/self/ns/mnt', 0), 0)", DENIED),
    "allow itself core dumps": ("call(302, 0, 4, (ctypes.c_uint64 * 2)(1, 1), 0)", DENIED),
    "become another user": ("os.setuid(12345)", DENIED),
}
