"""The first process of a container comes into being: in new namespaces, or in those that its config names by path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.bundle.failures import Failure
from wherry.kernel import namespace, process
from wherry.runtime import channel
from wherry.runtime.failure import words
from wherry.runtime.plan import NAMESPACES


def clone(flags: int, linux: Mapping[str, Any]) -> tuple[int, int]:
    """Fork the first process: (0, -1) in it, (pid, pidfd) in its parent.  Raises Failure.

    Another process between the two enters the namespaces that exist already and makes that of time, which only its children are in.
    """
    joined = [(one["type"], one["path"]) for one in linux.get("namespaces") or () if one.get("path")]
    offsets = linux.get("timeOffsets") or {}
    new_time = any(one["type"] == "time" and not one.get("path") for one in linux.get("namespaces") or ())
    if not joined and not new_time:
        return process.clone(flags)
    ours, theirs = channel.pair()
    with ours, theirs:
        middle = os.fork()
        if middle == 0:
            try:
                _enter(joined)
                if new_time:
                    _make_time(offsets)
                pid, pidfd = process.clone(flags | process.CLONE_PARENT)
                if pid == 0:
                    return 0, -1
                channel.send(theirs, {"pid": pid}, [pidfd])
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 -- the edge of a forked child
                channel.send(theirs, {"error": words(error)})
                os._exit(1)
        theirs.close()
        try:
            message, fds = channel.receive(ours)
        except channel.Closed:
            message, fds = {"error": "the process that makes the container ended"}, []
        os.waitpid(middle, 0)
    if "error" in message:
        raise Failure(message["error"])
    return message["pid"], fds[0]


def _enter(joined: Sequence[tuple[str, str]]) -> None:
    """The user namespace after those that need the privileges of outside, before those that are its own."""
    opened = []
    for kind, path in joined:
        try:
            opened.append((kind, path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise Failure(f"linux.namespaces: {kind}: {path}: {error.strerror}") from None
    inner = [one for one in opened if one[0] != "user" and not _joins(*one)]
    users = [one for one in opened if one[0] == "user"]
    for kind, path, fd in (*users, *inner):
        try:
            namespace.setns(fd, NAMESPACES[kind])
        except OSError as error:
            raise Failure(f"linux.namespaces: {kind}: {path}: {os.strerror(error.errno or 0)}") from None
    for _, _, fd in opened:
        os.close(fd)


def _joins(kind: str, path: str, fd: int) -> bool:
    try:
        namespace.setns(fd, NAMESPACES[kind])
    except PermissionError:
        return False
    except OSError as error:
        raise Failure(f"linux.namespaces: {kind}: {path}: {os.strerror(error.errno or 0)}") from None
    return True


def _make_time(offsets: Mapping[str, Any]) -> None:
    namespace.unshare(namespace.CLONE_NEWTIME)
    text = "".join(f"{clock} {values.get('secs') or 0} {values.get('nanosecs') or 0}\n" for clock, values in offsets.items())
    if text:
        try:
            with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise Failure(f"linux.timeOffsets: {error.strerror}") from None
