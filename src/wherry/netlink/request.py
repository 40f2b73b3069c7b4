"""Send requests to the kernel and gather their replies."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from wherry.netlink import message
from wherry.netlink.message import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, Message

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
_LOAD_WORD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # include/uapi/linux/bpf_common.h
_CAUSE = 12  # offset of nlmsg_pid in struct nlmsghdr
_RECEIVE_SIZE = 1 << 18
_RECEIVE_BUFFER = 1 << 21
_DUMPS = 10  # readings of a list that changes under each; as many as a busy host needs, and an end


@dataclass(frozen=True, slots=True)
class Request:
    """A message still without a sequence number.  ``flags`` beyond REQUEST and ACK."""

    kind: int
    payload: bytes
    flags: int = 0
    what: str = ""  # named in an error


class Netlink:
    """A netlink socket, bound to the network namespace of the thread that made it; not to be shared by threads at the same time."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, groups: int = 0) -> None:
        """``groups``: bits of multicast groups to hear."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """The kernel's name for this socket."""
        port: int = self._socket.getsockname()[0]
        return port

    def ignore(self, port: int) -> None:
        """From now on, do not get notices of what socket ``port`` did: the kernel drops them, and nobody wakes for them.

        A notice's header names who caused it; those of one transaction, which may come as one packet, have one cause.
        """
        cause = struct.unpack("!I", struct.pack("=I", port))[0]  # a load turns the bytes round
        program = b"".join(struct.pack("=HBBI", *one) for one in ((_LOAD_WORD, 0, 0, _CAUSE), (_EQUAL, 0, 1, cause), (_RETURN, 0, 0, 0)))
        program += struct.pack("=HBBI", _RETURN, 0, 0, 0xFFFFFFFF)
        held = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(held)))

    def notices(self) -> list[Message]:
        """Wait for the next notices of the groups.  Raises OSError (ENOBUFS) when some were lost."""
        return self._receive()

    def ask(self, *requests: Request) -> None:
        """Send the requests in one call; the kernel does them in order.

        Raises OSError for the first that failed, after all were answered: a failure does not keep the later ones from being done.
        """
        first = self._sequence + 1
        packet = b"".join(
            message.pack(request.kind, NLM_F_REQUEST | NLM_F_ACK | request.flags, first + index, request.payload)
            for index, request in enumerate(requests)
        )
        self._sequence += len(requests)
        self._send(packet)
        self._gather({first + index: request.what for index, request in enumerate(requests)})

    def dump(self, request: Request) -> list[Message]:
        """All messages of a dump: of one moment, unless what is listed changed while each of many was read.

        The kernel marks a dump during which the listed things changed: it may lack some and hold others twice.  Such a one is read again,
        and of a list that never stands still the last is returned.
        """
        for _ in range(_DUMPS):
            replies, end = self._dump(request)
            if not any(reply.flags & NLM_F_DUMP_INTR for reply in (*replies, end)):
                break
        return replies

    def _dump(self, request: Request) -> tuple[list[Message], Message]:
        """The listed messages, and the one that ends them, which carries flags too."""
        self._sequence += 1
        self._send(message.pack(request.kind, NLM_F_REQUEST | NLM_F_DUMP | request.flags, self._sequence, request.payload))
        found: list[Message] = []
        while True:
            for reply in self._receive():
                if reply.sequence != self._sequence or reply.kind == NLMSG_NOOP:
                    continue
                if reply.kind in (NLMSG_DONE, NLMSG_ERROR):
                    _check(reply, request.what)
                    return found, reply
                found.append(reply)

    def get(self, request: Request) -> Message:
        """The one message that answers ``request``."""
        self._sequence += 1
        self._send(message.pack(request.kind, NLM_F_REQUEST | request.flags, self._sequence, request.payload))
        while True:
            for reply in self._receive():
                if reply.sequence != self._sequence:
                    continue
                if reply.kind == NLMSG_ERROR:
                    _check(reply, request.what)
                    continue
                return reply

    def batch(self, opening: Request, requests: Iterable[Request], closing: Request) -> None:
        """Send an all-or-nothing batch (nf_tables): only the inner requests are acknowledged.  Raises OSError for the first that failed."""
        inner = list(requests)
        first = self._sequence + 1
        self._sequence += len(inner) + 2
        parts = [message.pack(opening.kind, NLM_F_REQUEST | opening.flags, first, opening.payload)]
        for index, request in enumerate(inner, 1):
            # One acknowledgement, of the last, is enough: an error is reported in any case, and then the batch is void.
            acknowledged = NLM_F_ACK if index == len(inner) else 0
            parts.append(message.pack(request.kind, NLM_F_REQUEST | acknowledged | request.flags, first + index, request.payload))
        parts.append(message.pack(closing.kind, NLM_F_REQUEST | closing.flags, first + len(inner) + 1, closing.payload))
        self._send(b"".join(parts))
        names = {first + index: request.what for index, request in enumerate(inner, 1)}
        self._gather_batch(names, first, first + len(inner))

    def _gather(self, waiting: dict[int, str]) -> None:
        failure: OSError | None = None
        while waiting:
            for reply in self._receive():
                if reply.kind != NLMSG_ERROR or reply.sequence not in waiting:
                    continue
                try:
                    _check(reply, waiting.pop(reply.sequence))
                except OSError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _gather_batch(self, names: dict[int, str], first: int, last: int) -> None:
        while True:
            failure: OSError | None = None
            done = False
            for reply in self._receive():
                if reply.kind != NLMSG_ERROR or not first <= reply.sequence <= last + 1:
                    continue
                done = done or reply.sequence == last
                try:
                    _check(reply, names.get(reply.sequence, "batch"))
                except OSError as error:
                    failure = failure or error
            if failure is not None:
                self._drain()
                raise failure
            if done:
                return

    def _drain(self) -> None:
        """Read what the kernel had already queued: a failed batch answers with everything at once."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(_RECEIVE_SIZE):
                pass
        except BlockingIOError:
            pass
        finally:
            self._socket.setblocking(True)

    def _send(self, packet: bytes) -> None:
        if len(packet) > 1 << 17:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(packet))
        self._socket.sendto(packet, (0, 0))

    def _receive(self) -> list[Message]:
        return list(message.unpack(self._socket.recv(_RECEIVE_SIZE)))


def _check(reply: Message, what: str) -> None:
    if len(reply.payload) < 4:
        return
    (code,) = struct.unpack_from("=i", reply.payload)
    if code >= 0:
        return
    detail = _kernel_text(reply) if reply.kind == NLMSG_ERROR else ""
    raise OSError(-code, f"netlink: {what or 'request'}: {os.strerror(-code)}" + (f" ({detail})" if detail else ""))


def _kernel_text(reply: Message) -> str:
    if not reply.flags & _NLM_F_ACK_TLVS or len(reply.payload) < 4 + message.HEADER_SIZE:
        return ""
    start = 4 + message.HEADER_SIZE
    if not reply.flags & _NLM_F_CAPPED:
        (size,) = struct.unpack_from("=I", reply.payload, 4)
        start = 4 + ((size + 3) & ~3)
    try:
        return message.table(reply.payload[start:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    except ValueError:
        return ""
