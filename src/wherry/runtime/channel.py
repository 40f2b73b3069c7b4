"""Messages with descriptors over a seqpacket socket: one JSON object each; a big one travels as a memfd.

Descriptors received are close-on-exec and belong to the receiver.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

_INLINE_BYTES = 64 << 10
_MESSAGE_LIMIT_BYTES = 16 << 20
_DESCRIPTORS = 250  # the kernel passes at most 253 at once
_BIG = b"!"
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps with separators makes another each time
RUN, OTHER = b"run", b"other"  # what a request to the zygote is for: a container, or an exec or a task
_SEPARATOR = b"\n"  # JSON as we write it has no line ends


class Closed(Exception):
    """The other side is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message.  Raises BlockingIOError on a full non-blocking channel, Closed when nobody listens."""
    send_encoded(channel, encode(message), fds)


def encode(message: dict[str, Any]) -> bytes:
    """A message as it travels."""
    return _ENCODER.encode(message).encode()


def send_encoded(channel: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """`send` for a message that is encoded already, to pass it on as it came."""
    if len(fds) > _DESCRIPTORS:
        raise ValueError(f"{len(fds)} descriptors in one message")
    body, extra = (data, -1) if len(data) <= _INLINE_BYTES else (_BIG, _spill(data))
    try:
        passed = [*fds, extra] if extra >= 0 else list(fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
        channel.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
        raise Closed from None
    finally:
        if extra >= 0:
            os.close(extra)


def request(kind: bytes, message: bytes, plan: bytes = b"", profile: bytes = b"") -> bytes:
    """What the zygote is asked: ``kind``, then the order, which it passes on unread, then a seccomp profile, which it reads.

    An order is the monitor's message, then what only a container's first process reads; all of them are encoded.
    """
    return _SEPARATOR.join((kind, message, plan, profile))


def split_request(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A `request` as kind, order, profile.  Raises ValueError."""
    kind, rest = data.split(_SEPARATOR, 1)
    order, profile = rest.rsplit(_SEPARATOR, 1)
    return kind, order, profile


def split_order(order: bytes) -> tuple[bytes, bytes]:
    """An order as the monitor's message and the first process's, both encoded.  Raises ValueError."""
    message, plan = order.split(_SEPARATOR)
    return message, plan


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors.  Raises Closed at the end, BlockingIOError when a non-blocking channel is empty."""
    body, fds = receive_encoded(channel)
    message = json.loads(body)
    return message, fds


def receive_encoded(channel: socket.socket) -> tuple[bytes, list[int]]:
    """`receive` without decoding."""
    room = socket.CMSG_SPACE((_DESCRIPTORS + 1) * 4)
    try:
        body, ancillary, flags, _ = channel.recvmsg(_INLINE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        raise Closed from None
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % 4])
    if not body:
        _close(fds)
        raise Closed
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(fds)
        raise ValueError("a truncated message")
    if body == _BIG:
        body = _collect(fds.pop())
    return body, list(fds)


def _spill(data: bytes) -> int:
    if len(data) > _MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a message of {len(data)} bytes")
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _collect(fd: int) -> bytes:
    try:
        size = os.fstat(fd).st_size
        if size > _MESSAGE_LIMIT_BYTES:
            raise ValueError(f"a message of {size} bytes")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _close(fds: array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
