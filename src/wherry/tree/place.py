"""COPY and ADD inside a root file system: chosen files of a source directory are placed at a path, with owner and mode.

The builder chooses (patterns, .dockerignore, excludes) and hashes; this module only places, beneath descriptors: a symlink in the image
resolves inside the image, one in the source is copied and never followed. Standard library and ``kernel`` only: the zygote runs it.
Source: what BuildKit's COPY was seen to do on Docker 28.5.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wherry.kernel import files, nodes
from wherry.tree.apply import ApplyOptions, apply
from wherry.tree.origins import DIRECTORY, Folder, Found, Origin, Unpacked, found, gives_group
from wherry.tree.ownership import apply_mode, resolve_owner
from wherry.tree.plan import Item, Plan
from wherry.tree.tar_reader import Reader

_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def place(root_fd: int, plan: Plan, fds: Sequence[int], *, masked: bool = True) -> None:
    """Carry out ``plan`` inside ``root_fd``.  ``masked``: the process has a umask.

    Raises OSError with the path as the container sees it; LookupError for an owner that the image does not know.
    """
    owner = resolve_owner(root_fd, plan.owner) if plan.owner else None
    _Placing(root_fd, plan, fds, owner, masked=masked).run()


def make_directory(root_fd: int, path: str, owner: str) -> bool:
    """WORKDIR: make ``path`` and its missing parents for ``owner`` (``user[:group]``; root where unknown).  Whether anything was made."""
    try:
        os.close(files.open_in_root(root_fd, path, _PATH_DIRECTORY))
    except FileNotFoundError:
        uid = gid = 0
        with contextlib.suppress(LookupError):
            uid, gid = resolve_owner(root_fd, owner or "0")
        os.close(files.mkdirs_in_root(root_fd, path, 0o755, uid, gid))
        return True
    except NotADirectoryError:
        raise OSError(errno.ENOTDIR, f"Cannot mkdir: {path} is not a directory") from None
    return False


def place_task(root_fd: int, arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """`place` for ``Supervisor.task``: every expected failure is an OSError that carries the text."""
    try:
        os.umask(0)  # a process of its own
        place(root_fd, Plan.from_json(dict(arguments)), fds, masked=False)
    except (LookupError, ValueError) as error:
        raise OSError(errno.EINVAL, str(error.args[0])) from error
    return {}


def workdir_task(root_fd: int, arguments: Mapping[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    """`make_directory` for ``Supervisor.task``: ``path``, ``owner`` -> ``made``."""
    return {"made": make_directory(root_fd, arguments["path"], arguments["owner"])}


class _Placing:
    """One plan at work.

    A file that comes out right by itself (root's, no umask) is not changed again: on overlayfs each call counts.
    """

    def __init__(self, root_fd: int, plan: Plan, fds: Sequence[int], owner: tuple[int, int] | None, *, masked: bool) -> None:
        self.root_fd, self.plan, self.fds, self.owner = root_fd, plan, fds, owner
        self.masked = masked
        self.linked: dict[tuple[int, int], str] = {}
        self.times: list[tuple[str, int]] = []

    def run(self) -> None:
        for item in self.plan.items:
            if item.kind == "file":
                self._file_item(item)
            else:
                self._into_directory(item)

    def _file_item(self, item: Item) -> None:
        target_fd, name = self._target(item.name)
        self.linked.clear()
        try:
            if item.packed:
                self._file(Unpacked(item.packed[0], self.fds[item.descriptor :]), target_fd, name)
                return
            source_parent, _, source_name = item.path.rpartition("/")
            source_fd = files.open_beneath(self.fds[item.descriptor], source_parent or ".", DIRECTORY)
            try:
                self._file(Found(source_fd, source_name), target_fd, name)
            finally:
                os.close(source_fd)
        finally:
            os.close(target_fd)

    def _file(self, origin: Origin, target_fd: int, name: str) -> None:
        self._entry(origin, target_fd, name, name, gives_group=gives_group(target_fd))

    def _into_directory(self, item: Item) -> None:
        target_fd = self._directory(self.plan.destination, 0o755 if item.kind == "tar" else None)
        try:
            if item.kind == "tar":
                with os.fdopen(os.dup(self.fds[item.descriptor]), "rb") as archive:
                    apply(Reader(archive), target_fd, ApplyOptions(owner=self.owner))
                return
            if item.packed or not item.entries:
                fds = self.fds[item.descriptor :]
                self._tree(target_fd, item.entries, (Unpacked(packed, fds) for packed in item.packed))
            else:
                self._found_tree(target_fd, item)
            if item.mtime_ns is not None:
                os.utime(target_fd, ns=(item.mtime_ns, item.mtime_ns))
        finally:
            os.close(target_fd)

    def _found_tree(self, target_fd: int, item: Item) -> None:
        source_fd = files.open_beneath(self.fds[item.descriptor], item.path or ".", DIRECTORY)
        sources = Folder(source_fd)
        try:
            self._tree(target_fd, item.entries, (found(sources, entry) for entry in item.entries))
        finally:
            sources.close()
            os.close(source_fd)

    def _tree(self, target_fd: int, entries: Sequence[str], origins: Iterable[Origin]) -> None:
        self.linked.clear()
        self.times.clear()
        targets = Folder(target_fd)
        try:
            for entry, origin in zip(entries, origins, strict=True):
                parent, _, name = entry.rpartition("/")
                self._entry(origin, targets.at(parent), name, entry, target_fd, gives_group=targets.gives_group)
            for path, modified in reversed(self.times):
                parent, _, name = path.rpartition("/")
                os.utime(name, ns=(modified, modified), dir_fd=targets.at(parent), follow_symlinks=False)
        finally:
            targets.close()

    def _target(self, name: str) -> tuple[int, str]:
        """Where a single file goes: an open directory and a name in it."""
        destination = self.plan.destination
        if self.plan.directory or self._is_directory(destination):
            inner, _, last = name.rpartition("/")
            return self._directory(f"{destination}/{inner}" if inner else destination), last
        if not self.plan.replace_links:
            destination = self._followed(destination)
        parent, _, last = destination.rstrip("/").rpartition("/")
        return self._directory(parent or "/"), last

    def _followed(self, path: str) -> str:
        """Where a chain of symlinks at ``path`` ends: a file is replaced there, not the link."""
        for _ in range(40):
            parent, _, name = path.rstrip("/").rpartition("/")
            try:
                fd = files.open_in_root(self.root_fd, parent or "/", _PATH_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return path
            try:
                link = os.readlink(name, dir_fd=fd)
            except OSError:
                return path
            finally:
                os.close(fd)
            path = link if link.startswith("/") else f"{parent}/{link}"
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _is_directory(self, path: str) -> bool:
        try:
            fd = files.open_in_root(self.root_fd, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _directory(self, path: str, mode: int | None = None) -> int:
        uid, gid = self.owner or (0, 0)
        if self.plan.replace_links:
            self._drop_link(path)
        try:
            fd = files.mkdirs_in_root(self.root_fd, path, self.plan.directory_mode if mode is None else mode, uid, gid)
        except NotADirectoryError:
            raise OSError(errno.ENOTDIR, f"cannot copy to non-directory: {path}") from None
        try:
            return files.open_beneath(fd, ".", DIRECTORY)
        finally:
            os.close(fd)

    def _drop_link(self, path: str) -> None:
        parent, _, name = path.rstrip("/").rpartition("/")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            fd = files.open_in_root(self.root_fd, parent or "/", _PATH_DIRECTORY)
            try:
                if name and stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)

    def _entry(self, origin: Origin, target_fd: int, new_name: str, path: str, top_fd: int = -1, *, gives_group: bool) -> None:
        """Copy one file, link, FIFO or (empty) directory.  ``gives_group``: new files take the target directory's group."""
        kind = stat.S_IFMT(origin.mode)
        if kind == stat.S_IFREG:
            self._regular(origin, target_fd, new_name, path, top_fd, gives_group=gives_group)
        elif kind == stat.S_IFDIR:
            self._make_directory(origin, target_fd, new_name, path)
        elif kind == stat.S_IFLNK:
            self._make_room(target_fd, new_name, path)
            os.symlink(origin.link, new_name, dir_fd=target_fd)
            os.chown(new_name, *self._ids(origin), dir_fd=target_fd, follow_symlinks=False)
            os.utime(new_name, ns=(origin.mtime_ns, origin.mtime_ns), dir_fd=target_fd, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            self._make_room(target_fd, new_name, path)
            os.mkfifo(new_name, 0o600, dir_fd=target_fd)
            os.chown(new_name, *self._ids(origin), dir_fd=target_fd, follow_symlinks=False)
            nodes.chmod_node(target_fd, new_name, self._mode(origin))
        elif kind != stat.S_IFSOCK:
            raise OSError(errno.EPERM, "refusing to copy a device file", path)

    def _regular(self, origin: Origin, target_fd: int, new_name: str, path: str, top_fd: int, *, gives_group: bool) -> None:
        if origin.identity is not None and top_fd >= 0:
            known = self.linked.get(origin.identity)
            if known is not None:
                self._make_room(target_fd, new_name, path)
                self._link(top_fd, known, target_fd, new_name)
                return
            self.linked[origin.identity] = path
        ids, mode = self._ids(origin), self._mode(origin)
        first = mode if not mode & ~0o777 and ids == (0, 0) else 0o600
        try:
            new = os.open(new_name, _NEW_FILE, first, dir_fd=target_fd)
        except FileExistsError:
            self._make_room(target_fd, new_name, path)
            new = os.open(new_name, _NEW_FILE, first, dir_fd=target_fd)
        try:
            if ids != (0, 0) or gives_group:
                os.fchown(new, *ids)
            origin.copy_to(new)
            if self.masked or first != mode:
                os.fchmod(new, mode)
            os.utime(new, ns=(origin.mtime_ns, origin.mtime_ns))
        finally:
            os.close(new)

    def _make_directory(self, origin: Origin, target_fd: int, new_name: str, path: str) -> None:
        try:
            os.mkdir(new_name, 0o700, dir_fd=target_fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(new_name, dir_fd=target_fd, follow_symlinks=False).st_mode):
                if not self.plan.replace_links:
                    raise OSError(errno.ENOTDIR, f"cannot copy to non-directory: {path}") from None
                os.unlink(new_name, dir_fd=target_fd)
                os.mkdir(new_name, 0o700, dir_fd=target_fd)
        fd = os.open(new_name, DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target_fd)
        try:
            os.fchown(fd, *self._ids(origin))
            os.fchmod(fd, self._mode(origin))
        finally:
            os.close(fd)
        self.times.append((path, origin.mtime_ns))

    def _make_room(self, target_fd: int, name: str, path: str) -> None:
        try:
            status = os.stat(name, dir_fd=target_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "cannot copy a file over a directory", path)
        os.unlink(name, dir_fd=target_fd)

    def _link(self, top_fd: int, known: str, target_fd: int, name: str) -> None:
        parent, _, last = known.rpartition("/")
        fd = files.open_beneath(top_fd, parent or ".", DIRECTORY)
        try:
            os.link(last, name, src_dir_fd=fd, dst_dir_fd=target_fd, follow_symlinks=False)
        finally:
            os.close(fd)

    def _ids(self, origin: Origin) -> tuple[int, int]:
        if self.owner is not None:
            return self.owner
        return (origin.uid, origin.gid) if self.plan.keep_owner else (0, 0)

    def _mode(self, origin: Origin) -> int:
        bits = stat.S_IMODE(origin.mode)
        return apply_mode(self.plan.mode, bits, directory=stat.S_ISDIR(origin.mode)) if self.plan.mode else bits
