"""Functions that run inside a root file system, in a process of their own: what the daemon must never do by path."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wherry.kernel import cgroup, credentials, files, namespace
from wherry.runtime import channel, confinement, mounting, steps, users
from wherry.runtime.failure import StartFailure
from wherry.tree import apply, furnish, pack, parsing, place
from wherry.tree.tar import InvalidArchive
from wherry.tree.tar_reader import Reader
from wherry.tree.tar_writer import Writer

_KEPT = credentials.mask(("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"))
_CELLS = {
    "index": confinement.Cell(),
    "listing": confinement.Cell(),
    "merge": confinement.Cell(),
    "outline": confinement.Cell(),
    "plain": confinement.Cell(),
    "unpack": confinement.Cell(directories=1, capabilities=_KEPT | credentials.SYS_ADMIN),  # overlayfs's marks are trusted.* attributes
}
Task = Callable[[int, Mapping[str, Any], Sequence[int]], dict[str, Any]]


def run(message: Mapping[str, Any], control: socket.socket, fds: Sequence[int]) -> None:
    """Enter the root that ``message`` names, run its function there and answer."""

    def work() -> dict[str, Any]:
        rest = list(fds)
        if message["has_pidfd"]:
            namespace.setns(rest.pop(0), namespace.CLONE_NEWNS)
            root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        else:
            root_fd = _enter(message["rootfs"])
        # archives, and names that a container chose: nothing outside of this root and of what was handed over can be reached
        directories = [fd for fd in rest if stat.S_ISDIR(os.fstat(fd).st_mode)] + [root_fd]
        others = [fd for fd in rest if fd not in directories]
        cell = confinement.Cell(directories=len(directories), capabilities=_KEPT, cpu_s=None)
        confinement.confine(cell, [*others, *directories], control.fileno())
        return TASKS[message["name"]](root_fd, message["arguments"], rest)

    _answer(work, control)


def parse(message: Mapping[str, Any], control: socket.socket, fds: Sequence[int]) -> None:
    """Run a function of `tree.parsing` on what is in ``fds``, confined, and answer.  The first answer brings a pidfd, to end this."""

    def work() -> dict[str, Any]:
        with os.fdopen(os.pidfd_open(os.getpid())) as pidfd:
            channel.send(control, {"event": "running"}, [pidfd.fileno()])
        os.umask(0)
        confinement.confine(_CELLS[message["name"]], fds, control.fileno())
        return parsing.PARSERS[message["name"]](message["arguments"], fds)

    _answer(work, control)


def _answer(work: Callable[[], dict[str, Any]], control: socket.socket) -> None:
    """Do the work and say what came of it."""
    try:
        answer: dict[str, Any] = {"event": "done", "result": work()}
    except InvalidArchive as error:
        answer = {"event": "invalid", "text": str(error)}
    except MemoryError:
        answer = {"event": "invalid", "text": f"reading the archive needs more than {confinement.MEMORY_BYTES >> 20} MiB of memory"}
    except OSError as error:
        answer = _failure(error.errno, error.strerror or str(error), error.filename)
    except Exception as error:  # noqa: BLE001 -- the edge of a forked child: the daemon is told everything
        answer = _failure(None, f"{type(error).__name__}: {error}")
    with contextlib.suppress(channel.Closed):
        channel.send(control, answer)


def _failure(number: int | None, text: str, path: Any = None) -> dict[str, Any]:
    return {"event": "error", "errno": number or errno.EIO, "text": text, "path": None if path is None else os.fsdecode(path)}


def _enter(rootfs: Mapping[str, Any]) -> int:
    namespace.unshare(namespace.CLONE_NEWNS)
    sandbox = steps.Sandbox(cgroup.Hierarchies({}, None))
    os.umask(0)
    root = mounting.MountRoot(tuple(rootfs["lower"]), rootfs["upper"], rootfs["work"])
    for step in (mounting.Detach(), root, mounting.EnterRoot(False)):
        step.execute(sandbox)
    return sandbox.root_fd


def _stat(root_fd: int, arguments: Mapping[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    """``path`` -> name, size, mode (st_mode), mtime_ns, uid, gid, link_target; the last component is not followed."""
    path = "/" + arguments["path"].lstrip("/")
    fd = _open_last(root_fd, path)
    try:
        status = os.fstat(fd)
        target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
    finally:
        os.close(fd)
    return {
        "name": os.path.basename(path.rstrip("/")) or "/",
        "size": status.st_size,
        "mode": status.st_mode,
        "mtime_ns": status.st_mtime_ns,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "link_target": target,
    }


def _mkdir(root_fd: int, arguments: Mapping[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    """Make the directory ``path`` with its parents, ``mode``, ``uid``, ``gid``."""
    os.close(
        files.mkdirs_in_root(root_fd, arguments["path"], arguments.get("mode", 0o755), arguments.get("uid", 0), arguments.get("gid", 0))
    )
    return {}


def _pack(root_fd: int, arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """A tar of ``path`` onto ``fds[0]``; its first name is ``name``. A path that ends in "/." is followed, an empty name has no entry."""
    path, name = arguments["path"], arguments["name"]
    with os.fdopen(os.dup(fds[0]), "wb", buffering=0) as out:
        fd = files.open_in_root(root_fd, path, os.O_PATH) if path.endswith("/.") else _open_last(root_fd, path)
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)
        if is_directory:
            directory = files.open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
            packed = pack.pack(directory, out, pack.PackOptions(prefix=name, skip=_kernel_files(path)))
            os.close(directory)
            return {"size_bytes": packed.size_bytes, "entries": packed.entries, "left_out": packed.left_out}
        parent, last = os.path.split(path.rstrip("/"))
        directory = files.open_in_root(root_fd, parent or "/", os.O_PATH | os.O_DIRECTORY)
        writer = Writer(out)
        pack.pack_entry(directory, last, writer, archive_name=name)
        writer.finish()
        os.close(directory)
        return {"entries": 1}


def _kernel_files(path: str) -> Callable[[str], bool]:
    """What a running container has below /proc, /sys and /dev is the kernel's, not the container's."""
    start = posixpath.normpath("/" + path.lstrip("/")).lstrip("/")

    def skip(inside: str) -> bool:
        return posixpath.join(start, inside).startswith(("proc/", "sys/", "dev/"))

    return skip


def _unpack(root_fd: int, arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """The tar on ``fds[0]`` into the directory ``path``; ``keep_kinds``: refuse a file over a directory and the reverse.

    ``user``: whom everything shall belong to, as in ``docker run -u``; empty: whom the tar says.
    """
    owner = _owner(root_fd, arguments["user"]) if arguments.get("user") else None
    directory = files.open_in_root(root_fd, arguments["path"], os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.fdopen(os.dup(fds[0]), "rb", buffering=0) as source:
            reader = Reader(source)
            applied = apply.apply(reader, directory, apply.ApplyOptions(keep_kinds=bool(arguments.get("keep_kinds")), owner=owner))
    except InvalidArchive as error:
        raise OSError(errno.EBADMSG, str(error), arguments["path"]) from error
    finally:
        os.close(directory)
    return {"size_bytes": applied.size_bytes, "entries": applied.entries}


def _identify(root_fd: int, arguments: Mapping[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    """``user`` -> its uid and gid here."""
    uid, gid = _owner(root_fd, arguments["user"])
    return {"uid": uid, "gid": gid}


def _owner(root_fd: int, user: str) -> tuple[int, int]:
    try:
        who = users.resolve(*users.read(root_fd), user)
    except StartFailure as failure:
        raise OSError(errno.EINVAL, failure.message, user) from failure
    return who.uid, who.gid


def _open_last(root_fd: int, path: str) -> int:
    parent, name = os.path.split(path.rstrip("/"))
    if not name:
        return files.open_in_root(root_fd, "/", os.O_PATH)
    directory = files.open_in_root(root_fd, parent or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        return files.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(directory)


TASKS: dict[str, Task] = {
    "stat": _stat,
    "identify": _identify,
    "mkdir": _mkdir,
    "pack": _pack,
    "unpack": _unpack,
    "place": place.place_task,
    "workdir": place.workdir_task,
    "furnish": furnish.furnish_task,
}
