"""A tar from a container unpacked below a directory of this machine.  The container is hostile: every name is walked from that directory,
through no symbolic link, by descriptors; nothing outside is opened, made or removed.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile

from wherry.cli.flags import Failure
from wherry.kernel import nodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from wherry.client.http import Response

PIECE = 1 << 18


class Stream:
    """The body of an answer as the file that ``tarfile`` reads."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._rest = b""

    def read(self, size: int) -> bytes:
        pieces, left = [], size
        while left:
            piece = self._rest or self._response.piece()
            if not piece:
                break
            pieces.append(piece[:left])
            self._rest = piece[left:]
            left -= len(pieces[-1])
        return b"".join(pieces)


def unpack(stream: Stream, directory: str, rename: Callable[[str], str], *, owners: bool) -> int:
    """Unpack into the existing ``directory``; the bytes of file content.  ``rename`` gives an entry's name there.

    ``owners``: keep numeric owners, and set-id bits; else files are ours and have none.  Raises Failure for a name that leads out.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    total = 0
    times: list[tuple[str, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:  # type: ignore[call-overload]  # it reads only
            for entry in archive:
                name = rename(entry.name)
                content = archive.extractfile(entry) if entry.isreg() else None
                total += _place(root, name, entry, content, rename, owners=owners)
                if entry.isdir():
                    times.append((name, entry))
        for name, entry in reversed(times):
            _finish_directory(root, name, entry, owners=owners)
    except tarfile.TarError as error:
        raise Failure(f"the container's archive cannot be read: {error}") from None
    finally:
        os.close(root)
    return total


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Failure(f"the container's archive holds a name that leads out of the destination: {name}")
    return parts


def _open_parent(root: int, parts: list[str], name: str) -> int:
    """A descriptor of the directory that holds the last part; missing ones are made.  The caller closes it."""
    current = os.dup(root)
    try:
        for part in parts[:-1]:
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = below
    except OSError as error:
        os.close(current)
        raise Failure(f"cannot copy to {name}: {error.strerror}: {error.filename}") from None
    return current


def _place(root: int, name: str, entry: tarfile.TarInfo, content: IO[bytes] | None, rename: Callable[[str], str], *, owners: bool) -> int:
    parts = _parts(name)
    if not parts:
        return 0
    parent = _open_parent(root, parts, name)
    try:
        _make_room(parent, parts[-1], entry)
        return _make(root, parent, parts[-1], entry, content, rename, owners=owners)
    except OSError as error:
        raise Failure(f"cannot copy to {name}: {error.strerror}") from None
    finally:
        os.close(parent)


def _make_room(parent: int, last: str, entry: tarfile.TarInfo) -> None:
    """Remove what an entry replaces; a directory is never replaced by anything else, nor the reverse."""
    try:
        facts = os.stat(last, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        if not entry.isdir():
            raise Failure(f'cannot overwrite directory "{last}" with non-directory "{entry.name}"')
        return
    if entry.isdir():
        raise Failure(f'cannot overwrite non-directory "{last}" with directory "{entry.name}"')
    os.unlink(last, dir_fd=parent)


def _make(
    root: int, parent: int, last: str, entry: tarfile.TarInfo, content: IO[bytes] | None, rename: Callable[[str], str], *, owners: bool
) -> int:
    total = 0
    if entry.isdir():
        if not _is_directory(parent, last):
            os.mkdir(last, 0o700, dir_fd=parent)
        return 0
    if content is not None:
        total = _write(parent, last, entry, content)
    elif entry.islnk():
        _link(root, parent, last, rename(entry.linkname))
        return 0
    elif entry.issym():
        os.symlink(entry.linkname, last, dir_fd=parent)
    elif entry.isfifo():
        os.mkfifo(last, 0o600, dir_fd=parent)
    else:
        print(f"wherry: {entry.name} is a device: not copied", file=sys.stderr)
        return 0
    if owners:
        os.chown(last, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if not entry.issym():
        nodes.chmod_node(parent, last, entry.mode & (0o7777 if owners else 0o777))  # the container may see this directory, and change it
    os.utime(last, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
    return total


def _is_directory(parent: int, last: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _write(parent: int, last: str, entry: tarfile.TarInfo, content: IO[bytes]) -> int:
    descriptor = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        while piece := content.read(PIECE):
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    return entry.size


def _link(root: int, parent: int, last: str, target: str) -> None:
    parts = _parts(target)
    if not parts:
        raise Failure(f"the container's archive holds a hard link to nothing: {last}")
    source = _open_parent(root, parts, target)
    try:
        os.link(parts[-1], last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(source)


def _finish_directory(root: int, name: str, entry: tarfile.TarInfo, *, owners: bool) -> None:
    """Owner, mode and time of a directory, once its content is there."""
    parts = _parts(name)
    if not parts:
        return
    parent = _open_parent(root, parts, name)
    try:
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if owners:
                os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode & (0o7777 if owners else 0o777))
            os.utime(descriptor, (entry.mtime, entry.mtime))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Failure(f"cannot copy to {name}: {error.strerror}") from None
    finally:
        os.close(parent)
