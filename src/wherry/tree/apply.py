"""A tar archive becomes a directory tree.

Every parent is opened inside the root by openat2, so neither ".." nor a symlink, in the archive or swapped in meanwhile, leads out;
the last component is never followed, and what is in its place is removed before it is made anew. Symlinks in the middle of a name are
followed inside the root, as Docker does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wherry.kernel import files, nodes
from wherry.tree.remove import remove, remove_content
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_METADATA: Final = ".wh..wh."  # AUFS's own files, never unpacked
OVERLAY_OPAQUE: Final = "trusted.overlay.opaque"
_CACHED: Final = 128
_PAGE: Final = 4096
_REPLACED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a directory that a later entry made something else
_NODES: Final = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


class Whiteouts(Enum):
    """What a name that starts with ``.wh.`` does."""

    OVERLAY = "overlay"  # becomes overlayfs's own mark: a 0/0 device, an opaque directory
    DELETE = "delete"  # removes what the tree had before this archive
    LITERAL = "literal"  # is a file like any other (docker cp, ADD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOptions:
    """``owner``: give everything to this uid and gid. ``keep_kinds``: refuse to put a file where a directory is, or the reverse."""

    whiteouts: Whiteouts = Whiteouts.LITERAL
    owner: tuple[int, int] | None = None
    keep_kinds: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """``size_bytes``: files once each and the text of symlinks, as Docker counts a layer."""

    size_bytes: int
    entries: int


def apply(reader: Reader, root_fd: int, options: ApplyOptions | None = None) -> Applied:
    """Unpack the archive into the directory ``root_fd`` (not O_PATH).

    Owners, modes, times to the nanosecond, ``user.*`` attributes and file capabilities come from the archive; ``trusted.*`` and overlayfs's
    attributes never do. Raises InvalidArchive, OSError; what was unpacked before stays.
    """
    tree = _Tree(root_fd, options or ApplyOptions())
    try:
        count = 0
        for entry in reader:
            tree.add(entry, reader)
            count += 1
        tree.set_directory_times()
        return Applied(size_bytes=tree.size_bytes, entries=count)
    finally:
        tree.forget_directories()


def clean(name: str) -> str:
    """``name`` relative to the root without "." and empty parts, "" for the root.  Raises InvalidArchive when ".." leads above it."""
    if "/." not in name and "//" not in name and name[:1] not in (".", "/"):
        return name.rstrip("/")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
            elif not name.startswith("/"):
                raise InvalidArchive(f"tar entry {name!r} is outside of the root")
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def check_symlink(entry: Entry) -> None:
    """Raises InvalidArchive for a target that no file system takes."""
    if not 0 < len(os.fsencode(entry.link)) < _PAGE:
        raise InvalidArchive(f"tar entry {entry.name!r} is a symlink with a target of {len(entry.link)} bytes")


def bad_link(entry: Entry) -> InvalidArchive:
    """For a hard link to what is not there, or is a directory."""
    return InvalidArchive(f"tar entry {entry.name!r} is a hard link to {entry.link!r}, which does not exist or is no file")


def is_portable_attribute(name: str) -> bool:
    """Whether an extended attribute may travel in a layer."""
    return name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))


class _Tree:
    def __init__(self, root_fd: int, options: ApplyOptions) -> None:
        self._root_fd = root_fd
        self._options = options
        self._directories: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._own: set[str] = set()  # paths from this archive, where whiteouts delete
        self._opaque: set[str] = set()
        self.size_bytes = 0

    def add(self, entry: Entry, reader: Reader) -> None:
        path = clean(entry.name)
        if not path:
            self._add_root(entry)
            return
        parent, _, name = path.rpartition("/")
        mode = self._options.whiteouts
        if mode is not Whiteouts.LITERAL and name.startswith(WHITEOUT):
            self._whiteout(path, parent, name)
            return
        if self._options.owner is not None:
            entry.uid, entry.gid = self._options.owner
        parent_fd = self._directory(parent)
        match entry.kind:
            case Kind.FILE:
                self._add_file(entry, reader, path, parent_fd, name)
            case Kind.DIRECTORY:
                self._add_directory(entry, path, parent_fd, name)
            case Kind.SYMLINK:
                check_symlink(entry)
                self._make(lambda: os.symlink(entry.link, name, dir_fd=parent_fd), path, parent_fd, name)
                os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
                self.size_bytes += len(os.fsencode(entry.link))
            case Kind.HARDLINK:
                self._add_hardlink(entry, path, parent_fd, name)
            case _:
                self._add_node(entry, path, parent_fd, name)
        if mode is Whiteouts.DELETE:
            self._own_with_parents(path)

    def set_directory_times(self) -> None:
        """Last, because making an entry changes its parent's time."""
        for path, time_ns in reversed(self._times.items()):
            parent, _, name = path.rpartition("/")
            try:
                fd = os.open(name or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._directory(parent, create=False))
                try:
                    os.utime(fd, ns=(time_ns, time_ns))
                finally:
                    os.close(fd)
            except OSError as error:
                if error.errno not in _REPLACED:
                    raise

    def forget_directories(self) -> None:
        """Close what is cached: names may now lead elsewhere."""
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()

    def _own_with_parents(self, path: str) -> None:
        while path and path not in self._own:
            self._own.add(path)
            path = path.rpartition("/")[0]

    def _directory(self, path: str, *, create: bool = True) -> int:
        """The directory ``path`` inside the root, made where it is missing; the descriptor stays ours."""
        if not path:
            return self._root_fd
        fd = self._directories.get(path)
        if fd is None:
            if create and self._options.whiteouts is Whiteouts.DELETE:
                self._displace(path)
            try:
                fd = files.open_in_root(self._root_fd, path, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                if not create:
                    raise
                fd = files.mkdirs_in_root(self._root_fd, path, 0o755, *(self._options.owner or (0, 0)))
            self._remember(path, fd)
        return fd

    def _displace(self, path: str) -> None:
        """What was there before this archive, and is none, goes where it has a directory that no entry tells of: an overlay hides it."""
        foreign: list[str] = []
        while path and path not in self._own:
            path, _, name = path.rpartition("/")
            foreign.append(name)
        if not foreign:
            return
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = files.open_in_root(self._root_fd, path or ".", flags)
        except OSError:  # this archive's own link, or no directory: whoever opens it follows, or is told
            return
        try:
            while foreign:
                name = foreign.pop()
                path = f"{path}/{name}" if path else name
                inner = os.open(name, flags, dir_fd=fd)
                os.close(fd)
                fd = inner
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _REPLACED:
                raise
            self._clear(path, fd, name, directory=True)
        finally:
            os.close(fd)

    def _remember(self, path: str, fd: int) -> None:
        if len(self._directories) >= _CACHED:
            oldest = next(iter(self._directories))
            os.close(self._directories.pop(oldest))
        former = self._directories.pop(path, None)
        if former is not None:
            os.close(former)
        self._directories[path] = fd

    def _make(self, make: Callable[[], object], path: str, parent_fd: int, name: str, *, directory: bool = False) -> None:
        try:
            make()
        except FileExistsError:
            self._clear(path, parent_fd, name, directory=directory)
            make()

    def _clear(self, path: str, parent_fd: int, name: str, *, directory: bool = False) -> None:
        """Remove what stands where an entry is to be."""
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if self._options.keep_kinds and stat.S_ISDIR(status.st_mode) != directory:
            old, new = ("non-directory", "directory") if directory else ("directory", "non-directory")
            raise InvalidArchive(f'cannot overwrite {old} "/{path}" with {new} "/"')
        counted = (stat.S_ISREG(status.st_mode) and status.st_nlink == 1) or stat.S_ISLNK(status.st_mode)
        if counted and (self._options.whiteouts is not Whiteouts.DELETE or path in self._own):
            self.size_bytes -= status.st_size
        if not stat.S_ISREG(status.st_mode):
            self._forget_below(path)
            self._opaque.discard(path)
        remove(parent_fd, name)

    def _forget_below(self, path: str) -> None:
        """Names below ``path``, or through a symlink to it, may lead elsewhere from now on: those of the entry's own parent too.

        Its descriptor is in use, so that it stays open, under what is no path.
        """
        kept = self._directories.pop(path.rpartition("/")[0], None)
        self.forget_directories()
        if kept is not None:
            self._remember("\0", kept)

    def _add_root(self, entry: Entry) -> None:
        if entry.kind is not Kind.DIRECTORY or self._options.whiteouts is Whiteouts.LITERAL:
            return
        self._set_metadata(self._root_fd, entry)
        self._times[""] = entry.mtime_ns

    def _add_file(self, entry: Entry, reader: Reader, path: str, parent_fd: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(path, parent_fd, name)
            fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
        try:
            if entry.size:
                reader.copy_to(fd)
                self.size_bytes += entry.size
            self._set_metadata(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _add_directory(self, entry: Entry, path: str, parent_fd: int, name: str) -> None:
        hides = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                hides = self._is_whiteout(status)
                self._clear(path, parent_fd, name, directory=True)
                os.mkdir(name, 0o700, dir_fd=parent_fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            self._set_metadata(fd, entry)
            if hides:  # what the whiteout hid stays hidden
                os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        except BaseException:
            os.close(fd)
            raise
        self._remember(path, fd)
        self._times.pop(path, None)
        self._times[path] = entry.mtime_ns

    def _add_hardlink(self, entry: Entry, path: str, parent_fd: int, name: str) -> None:
        target = clean(entry.link)
        target_parent, _, target_name = target.rpartition("/")
        if target == path:
            return
        try:
            target_fd = files.open_in_root(self._root_fd, target_parent or ".", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise bad_link(entry) from error
        try:
            status = os.stat(target_name or ".", dir_fd=target_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or self._is_whiteout(status):
                raise bad_link(entry)
            self._make(
                lambda: os.link(target_name, name, src_dir_fd=target_fd, dst_dir_fd=parent_fd, follow_symlinks=False), path, parent_fd, name
            )
        except FileNotFoundError as error:
            raise bad_link(entry) from error
        finally:
            os.close(target_fd)

    def _is_whiteout(self, status: os.stat_result) -> bool:
        return self._options.whiteouts is Whiteouts.OVERLAY and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0

    def _add_node(self, entry: Entry, path: str, parent_fd: int, name: str) -> None:
        kind = _NODES[entry.kind]
        device = os.makedev(*entry.device)
        self._make(lambda: os.mknod(name, kind | 0o600, device, dir_fd=parent_fd), path, parent_fd, name)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        nodes.chmod_node(parent_fd, name, entry.mode)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _set_metadata(self, fd: int, entry: Entry) -> None:
        """Owner first: a change of owner clears set-id bits and capabilities."""
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if is_portable_attribute(name):
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    if error.errno != errno.EOPNOTSUPP:
                        raise

    def _whiteout(self, path: str, parent: str, name: str) -> None:
        if name == OPAQUE:
            # overlayfs knows no opaque root, so that images which have one show what lies below with Docker: here too, however it is stored
            if parent and parent not in self._opaque:
                self._opaque.add(parent)
                self._make_opaque(parent)
            return
        if name.startswith(_METADATA):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in ("", ".", ".."):
            raise InvalidArchive(f"invalid whiteout {path!r}")
        hidden_path = f"{parent}/{hidden}" if parent else hidden
        if self._options.whiteouts is Whiteouts.OVERLAY:
            parent_fd = self._directory(parent)
            self._make(lambda: os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent_fd), hidden_path, parent_fd, hidden)
            return
        parent_fd = self._directory(parent)
        with contextlib.suppress(FileNotFoundError):
            self._clear(hidden_path, parent_fd, hidden, directory=True)

    def _make_opaque(self, path: str) -> None:
        self._directory(path)
        if self._options.whiteouts is Whiteouts.OVERLAY:
            fd = files.open_in_root(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.setxattr(fd, OVERLAY_OPAQUE, b"y")
            finally:
                os.close(fd)
            return
        self.forget_directories()
        pending = [path]
        while pending:
            self._remove_foreign(pending.pop(), pending)

    def _remove_foreign(self, path: str, pending: list[str]) -> None:
        """Remove what is in ``path`` but not from this archive; directories to look into go to ``pending``."""
        try:
            fd = files.open_in_root(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with os.scandir(fd) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            prefix = path + "/" if path else ""
            own = [name for name, _ in names if prefix + name in self._own]
            remove_content(fd, own)
            kept = set(own)
            pending += [
                prefix + name for name, is_directory in names if is_directory and name in kept and prefix + name not in self._opaque
            ]
        finally:
            os.close(fd)
