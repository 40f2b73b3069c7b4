"""What a request asks for beside its body: the query, headers and a taken-over connection as values.

Times are nanoseconds since the epoch, 0 for "not given". ``Filters`` maps a key to what was asked for, in the order given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

Filters = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """``logs``: first replay what was written; ``stream``: then stay for what comes.  ``detach_keys`` empty: the default.

    ``multiplexed``: without a terminal, tell the outputs apart by frames.
    """

    stream: bool = False
    logs: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    detach_keys: str = ""
    multiplexed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """``tail`` None: everything."""

    stdout: bool
    stderr: bool
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    details: bool = False
    tail: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hijacked:
    """A client's connection after its response head was sent: from here on both sides speak the raw stream.

    ``fd``: the socket, non-blocking, close-on-exec; it belongs to the API, which closes it when the operation returns: duplicate it to
    keep it. ``leftover``: what the client had already sent behind its request.
    """

    fd: int
    leftover: bytes


# Answers the client (101 or 200) and takes its connection over.  The argument: is it a terminal's raw stream?  Call it at most once,
# after everything that may still fail with a proper status; ConnectionError: the client has gone.
Hijack = Callable[[bool], Awaitable[Hijacked]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStream:
    """A log on its way out.  ``chunks``: multiplexed frames, or raw bytes where ``tty``."""

    tty: bool
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """POST /commit.  ``changes``: Dockerfile instructions."""

    container: str
    repo: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """POST /images/create with fromSrc.  ``source``: "-" for the request's body, else a URL."""

    source: str
    repo: str = ""
    tag: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRequest:
    """PUT /containers/{id}/archive.

    ``keep_kind``: a directory never replaces something else, nor the reverse; ``copy_ids``: owners are the container user's.
    """

    path: str
    keep_kind: bool = False
    copy_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePrune:
    """POST /build/prune.  Bytes; 0 means not given."""

    all: bool = False
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0
