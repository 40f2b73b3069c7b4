"""A directory tree becomes a tar archive: deterministic, so the same tree gives the same bytes.

A directory comes before what it holds, its other entries before its subdirectories, each in order of name. Directories are opened
beneath the root without following symlinks and files are opened by descriptor, so a tree that changes meanwhile can garble only itself.
What is so deep that no path leads there is left out: Docker does so, and nobody could unpack it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from wherry.kernel import files
from wherry.tree.apply import OPAQUE, OVERLAY_OPAQUE, WHITEOUT, is_portable_attribute
from wherry.tree.tar import Entry, Kind, Sink
from wherry.tree.tar_writer import Writer

_CHUNK: Final = 1 << 20
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """``overlay``: the tree is overlayfs's upper directory; its 0/0 devices and opaque directories become ``.wh.`` entries.

    ``prefix``: put this path before every name; "" packs the content without an entry for the root itself.
    ``hollow``: files are zeros of their length, and are not read.
    ``skip``: paths (relative to the root) that are left out with all below. ``deleted``: names to write as ``.wh.`` entries, by the path of
    the directory they were in. ``whole_seconds``: cut times as Docker does;
    the archive is half as large without the PAX headers that nanoseconds need. ``hides``: whether an opaque directory, by descriptor and
    path, hides anything; without it each is taken to. ``limit_bytes``: of all files, holes included; beyond it EFBIG is raised.
    """

    overlay: bool = False
    prefix: str = ""
    skip: Callable[[str], bool] | None = None
    deleted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    whole_seconds: bool = True
    hollow: bool = False
    hides: Callable[[int, str], bool] | None = None
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """``size_bytes``: files once each and the text of symlinks, as Docker counts a layer.  ``left_out``: too deep, not counting below."""

    size_bytes: int
    entries: int
    left_out: int = 0


def pack(root_fd: int, out: Sink, options: PackOptions | None = None) -> Packed:
    """Write the content of the directory ``root_fd`` as a complete archive.  Sockets are left out.

    Raises OSError: of the tree, or of ``out``.
    """
    writer = Writer(out)
    walk = _Walk(root_fd, writer, options or PackOptions())
    walk.run()
    writer.finish()
    return Packed(size_bytes=walk.size_bytes, entries=walk.entries, left_out=walk.left_out)


def packed_size(root_fd: int, options: PackOptions) -> int:
    """How long the archive is that `pack` would write, by the names and sizes alone.  Raises OSError."""
    writer = Writer(_Nowhere())
    _Walk(root_fd, writer, replace(options, hollow=True)).run()
    writer.finish()
    return writer.offset


class _Nowhere:
    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return len(data)


def pack_entry(parent_fd: int, name: str, writer: Writer, *, archive_name: str) -> None:
    """Add the one file, symlink or node ``name`` of ``parent_fd`` (no directory) to an archive, as ``archive_name``."""
    walk = _Walk(parent_fd, writer, PackOptions())
    walk.add(parent_fd, name, archive_name, os.stat(name, dir_fd=parent_fd, follow_symlinks=False))


class _Walk:
    def __init__(self, root_fd: int, writer: Writer, options: PackOptions) -> None:
        self._root_fd = root_fd
        self._writer = writer
        self._options = options
        self._links: dict[tuple[int, int], str] = {}
        self._linked_attributes: dict[tuple[int, int], dict[str, bytes]] = {}  # of those that have some
        self.size_bytes = 0
        self.entries = 0
        self.left_out = 0

    def run(self) -> None:
        prefix = self._options.prefix.strip("/")
        pending = [""]
        while pending:
            path = pending.pop()
            fd = files.open_beneath(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                name = f"{prefix}/{path}" if prefix and path else prefix or path
                attributes = _attributes(fd)
                if name:
                    self._add(self._entry(name, os.fstat(fd), attributes))
                if self._options.overlay and attributes.get(OVERLAY_OPAQUE) == b"y" and self._hides(fd, path):
                    self._add(Entry(name=f"{name}/{OPAQUE}" if name else OPAQUE, mode=0o600))
                for gone in sorted(self._options.deleted.get(path, ())):
                    self._add(Entry(name=f"{name}/{WHITEOUT}{gone}" if name else WHITEOUT + gone, mode=0o600))
                subdirectories = self._directory(fd, path + "/" if path else "", name + "/" if name else "")
            finally:
                os.close(fd)
            pending += reversed(subdirectories)

    def _hides(self, fd: int, path: str) -> bool:
        return self._options.hides is None or self._options.hides(fd, path)

    def _directory(self, fd: int, path_prefix: str, name_prefix: str) -> list[str]:
        """Add what is no directory; return the paths of those."""
        subdirectories = []
        skip = self._options.skip
        for name in sorted(os.listdir(fd)):
            path = path_prefix + name
            if skip is not None and skip(path):
                continue
            if not files.has_name(max(path, name_prefix + name, key=len)):
                self.left_out += 1
                continue
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    subdirectories.append(path)
                else:
                    self.add(fd, name, name_prefix + name, status)
            except FileNotFoundError:
                continue  # removed meanwhile
        return subdirectories

    def add(self, dir_fd: int, name: str, archive_name: str, status: os.stat_result) -> None:
        """Add what is no directory; a further name of a file already added becomes a hard link to it."""
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            return
        if self._options.overlay and stat.S_ISCHR(mode) and status.st_rdev == 0:
            head, _, tail = archive_name.rpartition("/")
            self._add(Entry(name=f"{head}/{WHITEOUT}{tail}" if head else WHITEOUT + tail, mode=0o600))
            return
        if status.st_nlink > 1:
            inode = status.st_dev, status.st_ino
            first = self._links.setdefault(inode, archive_name)
            if first != archive_name:
                # Docker and containerd give the file the owner of each link's entry, which clears its capabilities: they must come again
                entry = self._entry(archive_name, status, self._linked_attributes.get(inode, {}))
                entry.kind, entry.link, entry.size = Kind.HARDLINK, first, 0
                self._add(entry)
                return
        if stat.S_ISREG(mode):
            self._add_file(dir_fd, name, archive_name)
            return
        entry = self._entry(archive_name, status, {})
        if stat.S_ISLNK(mode):
            entry.link = os.readlink(name, dir_fd=dir_fd)
            self.size_bytes += len(os.fsencode(entry.link))
        self._add(entry)

    def _add_file(self, dir_fd: int, name: str, archive_name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ESTALE, "file was replaced while it was packed", archive_name)
            entry = self._entry(archive_name, status, _attributes(fd))
            if entry.xattrs and status.st_nlink > 1:
                self._linked_attributes[status.st_dev, status.st_ino] = entry.xattrs
            entry.size = status.st_size
            self.size_bytes += entry.size
            if self._options.limit_bytes is not None and self.size_bytes > self._options.limit_bytes:
                raise OSError(errno.EFBIG, f"more than {self._options.limit_bytes} bytes of files", archive_name)
            self._add(entry)
            left = entry.size
            if self._options.hollow:
                self._pad(left)
                return
            while left:
                data = os.read(fd, min(left, _CHUNK))
                if not data:
                    self._pad(left)  # it became shorter meanwhile: the archive stays whole, as with GNU tar
                    break
                self._writer.write(data)
                left -= len(data)
        finally:
            os.close(fd)

    def _pad(self, size: int) -> None:
        while size:
            zeros = bytes(min(size, _CHUNK))
            self._writer.write(zeros)
            size -= len(zeros)

    def _entry(self, name: str, status: os.stat_result, attributes: dict[str, bytes]) -> Entry:
        time_ns = status.st_mtime_ns
        mode = status.st_mode
        entry = Entry(
            name=name,
            kind=_kind(mode),
            mode=mode & 0o7777,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=time_ns - time_ns % _SECOND if self._options.whole_seconds else time_ns,
        )
        if attributes:
            entry.xattrs = {key: value for key, value in attributes.items() if is_portable_attribute(key)}
        if entry.kind is Kind.CHARACTER or entry.kind is Kind.BLOCK:
            entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return entry

    def _add(self, entry: Entry) -> None:
        self.entries += 1
        self._writer.add(entry)


def _kind(mode: int) -> Kind:
    match stat.S_IFMT(mode):
        case stat.S_IFREG:
            return Kind.FILE
        case stat.S_IFDIR:
            return Kind.DIRECTORY
        case stat.S_IFLNK:
            return Kind.SYMLINK
        case stat.S_IFCHR:
            return Kind.CHARACTER
        case stat.S_IFBLK:
            return Kind.BLOCK
        case _:
            return Kind.FIFO


def _attributes(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
            raise
        return {}
