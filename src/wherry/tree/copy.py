"""Copy a tree from one directory to another by descriptors: blocks are shared or copied in the kernel, holes and hard links kept."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from wherry.kernel import files, nodes
from wherry.tree.apply import is_portable_attribute
from wherry.tree.remove import remove


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """``owner``: give everything to this uid and gid. ``skip``: paths (relative to the source) left out with all below.

    ``root``: the target directory itself takes the source's owner, mode, times and attributes. ``attributes``: extended attributes to
    keep besides those that may travel in a layer.
    """

    owner: tuple[int, int] | None = None
    skip: Callable[[str], bool] | None = None
    root: bool = True
    attributes: frozenset[str] = frozenset()


def copy_tree(source_fd: int, target_fd: int, options: CopyOptions | None = None) -> None:
    """Copy the content of one directory into another (neither O_PATH), replacing what has the same name; directories are merged.

    No symlink is followed on either side. Sockets are left out. Raises OSError; what was copied before stays.
    """
    _Copy(source_fd, target_fd, options or CopyOptions()).run()


def copy_entry(source_fd: int, name: str, target_fd: int, target_name: str, options: CopyOptions | None = None) -> None:
    """Copy the one file, symlink or node ``name`` (no directory), replacing ``target_name``."""
    copy = _Copy(source_fd, target_fd, options or CopyOptions())
    copy.add(source_fd, name, target_fd, target_name, os.stat(name, dir_fd=source_fd, follow_symlinks=False))


class _Copy:
    def __init__(self, source_fd: int, target_fd: int, options: CopyOptions) -> None:
        self._source_fd = source_fd
        self._target_fd = target_fd
        self._options = options
        self._links: dict[tuple[int, int], str] = {}

    def run(self) -> None:
        visited: list[tuple[str, os.stat_result]] = []
        pending = [""]
        while pending:
            path = pending.pop()
            source = files.open_beneath(self._source_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                target = files.open_beneath(self._target_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    status = os.fstat(source)
                    if path or self._options.root:
                        self._set_metadata(source, target, status)
                        visited.append((path, status))
                    pending += self._directory(source, target, path + "/" if path else "")
                finally:
                    os.close(target)
            finally:
                os.close(source)
        for path, status in reversed(visited):
            fd = files.open_beneath(self._target_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(fd)

    def _directory(self, source: int, target: int, prefix: str) -> list[str]:
        subdirectories = []
        for name in os.listdir(source):
            path = prefix + name
            if self._options.skip is not None and self._options.skip(path):
                continue
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                subdirectories.append(path)
                _make_directory(target, name)
            else:
                self.add(source, name, target, name, status, path)
        return subdirectories

    def add(self, source: int, name: str, target: int, target_name: str, status: os.stat_result, path: str = "") -> None:
        """Copy what is no directory."""
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            return
        if _exists(target, target_name):
            remove(target, target_name)
        if status.st_nlink > 1 and path:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self._link(first, target, target_name)
                return
        if stat.S_ISREG(mode):
            self._copy_file(source, name, target, target_name)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), target_name, dir_fd=target)
        else:
            os.mknod(target_name, stat.S_IFMT(mode) | 0o600, status.st_rdev, dir_fd=target)
        uid, gid = self._options.owner or (status.st_uid, status.st_gid)
        os.chown(target_name, uid, gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            nodes.chmod_node(target, target_name, mode & 0o7777)
        os.utime(target_name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _copy_file(self, source: int, name: str, target: int, target_name: str) -> None:
        source_file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=source)
        try:
            status = os.fstat(source_file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ESTALE, "file was replaced while it was copied", name)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target_file = os.open(target_name, flags, 0o600, dir_fd=target)
            try:
                files.copy_file(source_file, target_file)
                self._set_metadata(source_file, target_file, status)
                os.utime(target_file, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(target_file)
        finally:
            os.close(source_file)

    def _link(self, first: str, target: int, target_name: str) -> None:
        parent, _, name = first.rpartition("/")
        fd = files.open_beneath(self._target_fd, parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(name, target_name, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(fd)

    def _set_metadata(self, source: int, target: int, status: os.stat_result) -> None:
        """Owner first: a change of owner clears set-id bits and capabilities."""
        uid, gid = self._options.owner or (status.st_uid, status.st_gid)
        os.fchown(target, uid, gid)
        os.fchmod(target, status.st_mode & 0o7777)
        for name in files.list_xattrs(source, ""):
            if is_portable_attribute(name) or name in self._options.attributes:
                try:
                    os.setxattr(target, name, os.getxattr(source, name))
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                        raise


def _make_directory(target: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
            remove(target, name)
            os.mkdir(name, 0o700, dir_fd=target)


def _exists(target: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
