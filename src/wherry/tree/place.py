"""COPY and ADD inside a root file system: chosen files of a source directory are placed at a path, with owner and mode.

The builder chooses (patterns, .dockerignore, excludes) and hashes; this module only places, beneath descriptors: a symlink in the image
resolves inside the image, one in the source is copied and never followed. Standard library and ``kernel`` only: the zygote runs it.
Source: what BuildKit's COPY was seen to do on Docker 28.5.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wherry.kernel import files
from wherry.tree.apply import ApplyOptions, apply
from wherry.tree.tar_reader import Reader

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ACCOUNTS_LIMIT = 16 << 20
_KEPT_XATTRS = ("user.", "security.capability")
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One source.  ``descriptor``: index of the source's root (or of the tar) among the descriptors.

    ``kind``: ``tree`` (the content of directory ``path``: ``entries``, relative to it, parents before children), ``file`` (``path``
    itself, to be called ``name``) or ``tar`` (unpacked at the destination). With ``packed`` there is no such directory: it tells of each
    entry, or of the file, what a directory would, and its bytes are somewhere in the descriptor.
    """

    kind: str
    descriptor: int
    path: str = ""
    name: str = ""
    entries: tuple[str, ...] = ()
    packed: tuple[Packed, ...] = ()


class Packed(NamedTuple):
    """An inode whose bytes lie in an archive.  ``identity``: equal for the names of one inode, -1 for one with a single name.

    ``descriptor`` counts from the item's; ``link``: a symlink's text; ``attributes``: pairs of a name and its value in hexadecimal.
    """

    mode: int
    size: int = 0
    mtime_ns: int = 0
    descriptor: int = 0
    offset: int = 0
    identity: int = -1
    link: str = ""
    attributes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one COPY does.  ``owner``: ``user[:group]`` or empty for root, or for the source's own owners when ``keep_owner``.

    ``mode``: octal or symbolic, or empty for the source's. ``directory``: the destination is one, whatever is there. ``replace_links``: a
    symlink at the destination is replaced, not followed (--link).
    """

    destination: str
    items: tuple[Item, ...]
    owner: str = ""
    keep_owner: bool = False
    mode: str = ""
    directory: bool = False
    replace_links: bool = False

    @property
    def directory_mode(self) -> int:
        """Of the directories that lead to the destination, where they are missing."""
        return apply_mode(self.mode, 0o755, directory=True) if self.mode else 0o755

    def to_json(self) -> dict[str, Any]:
        items = [
            {
                **{"kind": item.kind, "descriptor": item.descriptor, "path": item.path, "name": item.name},
                **{"entries": list(item.entries), "packed": list(item.packed)},
            }
            for item in self.items
        ]
        return {
            "destination": self.destination,
            "items": items,
            "owner": self.owner,
            "keep_owner": self.keep_owner,
            "mode": self.mode,
            "directory": self.directory,
            "replace_links": self.replace_links,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        items = tuple(
            Item(**{**item, "entries": tuple(item["entries"]), "packed": tuple(Packed(*one) for one in item["packed"])})
            for item in data["items"]
        )
        return cls(**{**data, "items": items})


def place(root_fd: int, plan: Plan, fds: Sequence[int], *, masked: bool = True) -> None:
    """Carry out ``plan`` inside ``root_fd``.  ``masked``: the process has a umask.

    Raises OSError with the path as the container sees it; LookupError for an owner that the image does not know.
    """
    owner = resolve_owner(root_fd, plan.owner) if plan.owner else None
    _Placing(root_fd, plan, fds, owner, masked=masked).run()


def make_directory(root_fd: int, path: str, owner: str) -> bool:
    """WORKDIR: make ``path`` and its missing parents for ``owner`` (``user[:group]``, empty for root).  Whether anything was made."""
    try:
        os.close(files.open_in_root(root_fd, path, _PATH_DIRECTORY))
    except FileNotFoundError:
        uid, gid = resolve_owner(root_fd, owner) if owner else (0, 0)
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
    try:
        return {"made": make_directory(root_fd, arguments["path"], arguments["owner"])}
    except LookupError as error:
        raise OSError(errno.EINVAL, str(error.args[0])) from error


def resolve_owner(root_fd: int, owner: str) -> tuple[int, int]:
    """The ids of ``user[:group]`` by the image's passwd and group files; numbers stand for themselves.  Raises LookupError."""
    user, colon, group = owner.partition(":")
    uid, primary = _user(root_fd, user)
    if not colon or not group:
        return uid, primary
    return uid, _group(root_fd, group)


def _user(root_fd: int, user: str) -> tuple[int, int]:
    if user.isascii() and user.isdigit():
        return _number(user), _number(user)
    for fields in _accounts(root_fd, "/etc/passwd"):
        if fields[0] == user and len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    raise LookupError(f"unable to convert uid/gid chown string to host mapping: can't find uid for user {user}: no such user: {user}")


def _group(root_fd: int, group: str) -> int:
    if group.isascii() and group.isdigit():
        return _number(group)
    for fields in _accounts(root_fd, "/etc/group"):
        if fields[0] == group and len(fields) >= 3 and fields[2].isdigit():
            return int(fields[2])
    raise LookupError(f"unable to convert uid/gid chown string to host mapping: can't find gid for group {group}: no such group: {group}")


def _number(text: str) -> int:
    number = int(text)
    if number >= 2**31:
        raise LookupError(f"uids and gids must be in range 0-{2**31 - 1}")
    return number


def _accounts(root_fd: int, path: str) -> list[list[str]]:
    try:
        content = files.read_small_file(root_fd, path, _ACCOUNTS_LIMIT)
    except FileNotFoundError:
        return []
    return [line.split(":") for line in content.decode("utf-8", "replace").splitlines()]


def apply_mode(text: str, current: int, *, directory: bool) -> int:
    """``0644`` or ``u=rwX,go=rX`` applied to the permission bits ``current``.  Raises ValueError in BuildKit's words."""
    if re.fullmatch(r"[0-9]+", text):
        if not re.fullmatch(r"[0-7]+", text) or int(text, 8) > 0o7777:
            raise ValueError(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        return int(text, 8)
    mode = current
    for clause in text.split(","):
        match = re.fullmatch(r"([ugoa]*)((?:[+=-](?:[rwxXst]*|[ugo]))+)", clause)
        if match is None:
            raise ValueError("invalid syntax")
        for operator, permissions in re.findall(r"([+=-])([rwxXstugo]*)", match[2]):
            mode = _change(mode, match[1] or "a", operator, permissions, directory=directory)
    return mode


_SHIFT = {"u": 6, "g": 3, "o": 0}


def _change(mode: int, who: str, operator: str, permissions: str, *, directory: bool) -> int:
    classes = "ugo" if "a" in who else who
    bits = mask = 0
    for one in classes:
        shift = _SHIFT[one]
        mask |= 0o7 << shift
        bits |= _class_bits(mode, permissions, directory=directory) << shift
        if "s" in permissions and one in "ug":
            bits |= 0o4000 if one == "u" else 0o2000
    if "t" in permissions and ("a" in who or "o" in who):
        bits |= 0o1000
    if operator == "+":
        return mode | bits
    return (mode & ~bits) if operator == "-" else (mode & ~mask) | bits


def _class_bits(mode: int, permissions: str, *, directory: bool) -> int:
    if permissions in _SHIFT:
        return mode >> _SHIFT[permissions] & 0o7
    bits = sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in set(permissions))
    if "X" in permissions and (directory or mode & 0o111):
        bits |= 1
    return bits


class _Folder:
    """Keeps the last directory of a walk open: entries come sorted, so most share it."""

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
        self.path = ""
        self.fd = root_fd
        self.gives_group = _gives_group(root_fd)

    def at(self, path: str) -> int:
        if path != self.path:
            fd = files.open_beneath(self.root_fd, path, _DIRECTORY) if path else self.root_fd
            self.close()
            self.path, self.fd, self.gives_group = path, fd, _gives_group(fd)
        return self.fd

    def close(self) -> None:
        if self.fd != self.root_fd:
            os.close(self.fd)
        self.path, self.fd = "", self.root_fd


class _Found:
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


class _Unpacked:
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


_Origin = _Found | _Unpacked


def _gives_group(fd: int) -> bool:
    return bool(os.fstat(fd).st_mode & stat.S_ISGID)


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
                self._file(_Unpacked(item.packed[0], self.fds[item.descriptor :]), target_fd, name)
                return
            source_parent, _, source_name = item.path.rpartition("/")
            source_fd = files.open_beneath(self.fds[item.descriptor], source_parent or ".", _DIRECTORY)
            try:
                self._file(_Found(source_fd, source_name), target_fd, name)
            finally:
                os.close(source_fd)
        finally:
            os.close(target_fd)

    def _file(self, origin: _Origin, target_fd: int, name: str) -> None:
        self._entry(origin, target_fd, name, name, gives_group=_gives_group(target_fd))

    def _into_directory(self, item: Item) -> None:
        target_fd = self._directory(self.plan.destination, 0o755 if item.kind == "tar" else None)
        try:
            if item.kind == "tar":
                with os.fdopen(os.dup(self.fds[item.descriptor]), "rb") as archive:
                    apply(Reader(archive), target_fd, ApplyOptions(owner=self.owner))
                return
            if item.packed or not item.entries:
                fds = self.fds[item.descriptor :]
                self._tree(target_fd, item.entries, (_Unpacked(packed, fds) for packed in item.packed))
                return
            source_fd = files.open_beneath(self.fds[item.descriptor], item.path or ".", _DIRECTORY)
            sources = _Folder(source_fd)
            try:
                self._tree(target_fd, item.entries, (_found(sources, entry) for entry in item.entries))
            finally:
                sources.close()
                os.close(source_fd)
        finally:
            os.close(target_fd)

    def _tree(self, target_fd: int, entries: Sequence[str], origins: Iterable[_Origin]) -> None:
        self.linked.clear()
        self.times.clear()
        targets = _Folder(target_fd)
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
            return files.open_beneath(fd, ".", _DIRECTORY)
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

    def _entry(self, origin: _Origin, target_fd: int, new_name: str, path: str, top_fd: int = -1, *, gives_group: bool) -> None:
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
            os.chmod(new_name, self._mode(origin), dir_fd=target_fd)
        elif kind != stat.S_IFSOCK:
            raise OSError(errno.EPERM, "refusing to copy a device file", path)

    def _regular(self, origin: _Origin, target_fd: int, new_name: str, path: str, top_fd: int, *, gives_group: bool) -> None:
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

    def _make_directory(self, origin: _Origin, target_fd: int, new_name: str, path: str) -> None:
        try:
            os.mkdir(new_name, 0o700, dir_fd=target_fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(new_name, dir_fd=target_fd, follow_symlinks=False).st_mode):
                if not self.plan.replace_links:
                    raise OSError(errno.ENOTDIR, f"cannot copy to non-directory: {path}") from None
                os.unlink(new_name, dir_fd=target_fd)
                os.mkdir(new_name, 0o700, dir_fd=target_fd)
        fd = os.open(new_name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target_fd)
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
        fd = files.open_beneath(top_fd, parent or ".", _DIRECTORY)
        try:
            os.link(last, name, src_dir_fd=fd, dst_dir_fd=target_fd, follow_symlinks=False)
        finally:
            os.close(fd)

    def _ids(self, origin: _Origin) -> tuple[int, int]:
        if self.owner is not None:
            return self.owner
        return (origin.uid, origin.gid) if self.plan.keep_owner else (0, 0)

    def _mode(self, origin: _Origin) -> int:
        bits = stat.S_IMODE(origin.mode)
        return apply_mode(self.plan.mode, bits, directory=stat.S_ISDIR(origin.mode)) if self.plan.mode else bits


def _found(sources: _Folder, entry: str) -> _Found:
    parent, _, name = entry.rpartition("/")
    return _Found(sources.at(parent), name)
