"""Where the files come from that COPY places: directories, and archives whose bytes stay where they are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from wherry.kernel import files
from wherry.tree.plan import Packed

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KEPT_XATTRS = ("user.", "security.capability")
_PIECE = 1 << 20


class Folder:
    """Keeps the last directory of a walk open: entries come sorted, so most share it."""

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
        self.path = ""
        self.fd = root_fd
        self.gives_group = gives_group(root_fd)

    def at(self, path: str) -> int:
        if path != self.path:
            fd = files.open_beneath(self.root_fd, path, DIRECTORY) if path else self.root_fd
            self.close()
            self.path, self.fd, self.gives_group = path, fd, gives_group(fd)
        return self.fd

    def close(self) -> None:
        if self.fd != self.root_fd:
            os.close(self.fd)
        self.path, self.fd = "", self.root_fd


class Found:
    """An entry of a source directory."""

    __slots__ = ("_folder_fd", "_name", "gid", "identity", "mode", "mtime_ns", "size", "uid")

    def __init__(self, folder_fd: int, name: str) -> None:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        self._folder_fd, self._name = folder_fd, name
        self.mode, self.uid, self.gid = status.st_mode, status.st_uid, status.st_gid
        self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
        self.identity = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None

    @property
    def link(self) -> str:
        return os.readlink(self._name, dir_fd=self._folder_fd)

    def copy_to(self, new: int) -> None:
        """Content and attributes."""
        old = os.open(self._name, _OLD_FILE, dir_fd=self._folder_fd)
        try:
            if 0 < self.size <= 65536:
                os.write(new, os.read(old, self.size))
            elif self.size:
                files.copy_file(old, new)
            for attribute in os.listxattr(old):
                if attribute.startswith(_KEPT_XATTRS):
                    os.setxattr(new, attribute, os.getxattr(old, attribute))
        finally:
            os.close(old)


class Unpacked:
    """An entry whose bytes lie in an archive.  Such a source has no owners worth keeping."""

    __slots__ = ("_fd", "_packed", "gid", "identity", "link", "mode", "mtime_ns", "uid")

    def __init__(self, packed: Packed, fds: Sequence[int]) -> None:
        self._packed = packed
        self._fd = fds[packed.descriptor]
        self.uid = self.gid = 0
        self.mode, self.mtime_ns, self.link = packed.mode, packed.mtime_ns, packed.link
        self.identity = (0, packed.identity) if packed.identity >= 0 else None

    def copy_to(self, new: int) -> None:
        """Content and attributes."""
        offset, left = self._packed.offset, self._packed.size
        while left:
            data = os.pread(self._fd, min(left, _PIECE), offset)
            if not data:
                raise OSError(errno.EIO, "the archive ends early")
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(new, rest) :]
            offset += len(data)
            left -= len(data)
        for attribute, value in self._packed.attributes:
            os.setxattr(new, attribute, bytes.fromhex(value))


Origin = Found | Unpacked


def gives_group(fd: int) -> bool:
    return bool(os.fstat(fd).st_mode & stat.S_ISGID)


def found(sources: Folder, entry: str) -> Found:
    parent, _, name = entry.rpartition("/")
    return Found(sources.at(parent), name)
