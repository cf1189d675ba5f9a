"""Kernel memory in socket buffers (sock_diag(7)). Standard library only: the supervisor imports it.

A socket's buffers do not count as any process's memory. `upper_bound` is read from one file and is never too low;
`buffer_bytes` asks the kernel for every socket of this network namespace, at about 4 µs each.
"""

from __future__ import annotations

import os
import struct

_PAGE = os.sysconf("SC_PAGE_SIZE")
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_AF_UNIX, _AF_INET, _AF_INET6, _TCP = 1, 2, 10, 6
# unix_diag.h: UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_MEMINFO | UDIAG_SHOW_UID and their attributes.
_UNIX_SHOW = 0x04 | 0x10 | 0x20 | 0x40
_UNIX_PEER, _UNIX_QUEUED, _UNIX_MEMORY, _UNIX_UID = 2, 4, 5, 7
_INET_MEMORY = 7  # INET_DIAG_SKMEMINFO
# sock_diag.h, SK_MEMINFO_*
_RECEIVED, _SENT, _FORWARD, _QUEUED, _OPTIONS, _BACKLOG = 0, 2, 4, 5, 6, 7


def upper_bound(buffer: int) -> int:
    """Return the most bytes that all sockets of this network namespace could hold.

    Computed from their number and TCP's own figures. `buffer` is the maximum of one UNIX socket (`largest_buffer`).
    """
    unix = tcp = 0
    with open("/proc/net/sockstat") as file:
        for line in file:
            words = line.split()
            if words[0] == "sockets:":
                unix += int(words[2])
            elif words[0] in ("TCP:", "UDP:"):
                unix -= int(words[2])
                tcp += int(words[-1]) * _PAGE
    return max(unix, 0) * buffer + tcp


def largest_buffer() -> int:
    """Return the bytes that a UNIX socket may hold: twice `wmem_max` (socket(7), SO_SNDBUF)."""
    with open("/proc/sys/net/core/wmem_max") as file:
        return 2 * int(file.read())


def buffer_bytes(inodes: set[int] | None, uid: int | None) -> int:
    """Return the bytes in the buffers of that user's sockets, or of those with these inode numbers.

    Unread data of a closed UNIX socket counts for its reader.

    Raises:
        OSError: the kernel does not report it.
    """
    import _socket

    channel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        total = 0
        request = struct.pack("=BBHIIIII", _AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UNIX_SHOW, 0xFFFFFFFF, 0xFFFFFFFF)
        for body in _dump(channel, request):
            (inode,) = struct.unpack_from("=I", body, 4)
            received = _attributes(body, 16)
            owner = _number(received.get(_UNIX_UID))
            if owner == uid if inodes is None else inode in inodes:
                total += _unix_bytes(received)
        for family in (_AF_INET, _AF_INET6):
            request = struct.pack("=BBBBI48x", family, _TCP, 1 << _INET_MEMORY - 1, 0, 0xFFFFFFFF)
            for body in _dump(channel, request):
                # struct inet_diag_msg: 4 bytes, struct inet_diag_sockid (48), expires, rqueue, wqueue, uid, inode
                owner, inode = struct.unpack_from("=II", body, 64)
                if owner == uid if inodes is None else inode in inodes:
                    total += _inet_bytes(_attributes(body, 72))
        return total
    finally:
        channel.close()


def _unix_bytes(received: dict[int, bytes]) -> int:
    memory = _numbers(received[_UNIX_MEMORY])
    total = memory[_RECEIVED] + memory[_SENT] + memory[_BACKLOG]
    queued = _number(received.get(_UNIX_QUEUED))
    if queued and not _number(received.get(_UNIX_PEER)):
        # Small messages take more memory than their size, but not more than their sender could have in flight.
        total += max(queued, memory[3])
    return total


def _inet_bytes(received: dict[int, bytes]) -> int:
    if _INET_MEMORY not in received:
        return 0
    memory = _numbers(received[_INET_MEMORY])
    return memory[_RECEIVED] + max(memory[_SENT], memory[_QUEUED]) + memory[_FORWARD] + memory[_BACKLOG]


def _numbers(value: bytes) -> list[int]:
    return list(struct.unpack(f"={len(value) // 4}I", value))


def _number(value: bytes | None) -> int:
    return _numbers(value[:4])[0] if value else 0


def _attributes(body: bytes, start: int) -> dict[int, bytes]:
    found = {}
    while start + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, start)
        if length < 4:
            break
        found[kind] = body[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def _dump(channel: object, request: bytes) -> list[bytes]:
    channel.send(struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)  # type: ignore[attr-defined]
    bodies: list[bytes] = []
    while True:
        data = channel.recv(1 << 18)  # type: ignore[attr-defined]
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE:
                return bodies
            if kind == _ERROR:
                number = -struct.unpack_from("=i", data, at + 16)[0]
                raise OSError(number, f"sock_diag: {os.strerror(number)}")
            bodies.append(data[at + 16 : at + length])
            at += (length + 3) & ~3
