"""Where COPY and ADD take files from: a directory by descriptor, patterns, exclusions, and a digest of what was chosen.

The digest (`Sum`) covers names, kinds, modes, link targets, extended attributes and content; owners only where they are kept (another
stage); times never. A path is resolved as if the directory were the root, so neither ``..`` nor a symlink leads out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

from wherry.kernel import files
from wherry.spec.patterns import Patterns, is_wild, name_matcher, patterns_of
from wherry.tree.compression import kind_of
from wherry.tree.plan import Item
from wherry.tree.tar import Limits
from wherry.tree.tar_fields import is_header

T = TypeVar("T")

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_PIECE = 1 << 20
SMALL = 65536  # bytes of a file that are hashed again whenever it is chosen
_KEPT_XATTRS = ("user.", "security.capability")


class NothingThere(LookupError):
    """No file by that name; ``path`` as BuildKit shows it, with a slash in front."""

    def __init__(self, path: str) -> None:
        self.path = "/" + path.strip("/")
        super().__init__(f'"{self.path}": not found')


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One source after patterns: a directory's content (``entries`` relative to ``path``) or one file.  ``digest`` covers it all.

    ``rows``: of a context in its archive, where it lists each entry, or the file.
    """

    path: str
    name: str
    is_directory: bool
    entries: tuple[str, ...]
    digest: bytes
    size_bytes: int = 0
    rows: Sequence[int] = field(default=(), compare=False)


class Sum:
    """A digest of what is told of each entry, and of the files' bytes, or of a large one its own digest, which can be kept.

    A digest for each small file would take longer than hashing their bytes. Two kinds of source tell the same of the same files.
    """

    def __init__(self) -> None:
        self._told = hashlib.sha256()
        self._bodies = hashlib.sha256()
        self.add_body = self._bodies.update  # a file's bytes, or its digest when there are more than `SMALL`

    def add(self, told: Iterable[str]) -> None:
        """What `tell` tells of entries."""
        self._told.update("".join(told).encode("utf-8", "surrogateescape"))

    def digest(self) -> bytes:
        return hashlib.sha256(self._told.digest() + self._bodies.digest()).digest()


class Source:
    """A directory to copy from.  Digests of large files are kept, for a file may be chosen by several instructions."""

    def __init__(self, fd: int, *, ignored: Patterns | None = None, owners: bool = False) -> None:
        """``fd`` is owned by the caller's ``close``.  ``ignored``: a .dockerignore; ``owners``: they belong to the digest."""
        self.fd = fd
        self.path = ""
        self.ignored = ignored or Patterns(())
        self.owners = owners
        self._known: dict[str, bytes] = {}

    @classmethod
    def open(cls, path: str, *, ignored: Patterns | None = None, owners: bool = False) -> Source:
        source = cls(os.open(path, _DIRECTORY | os.O_CLOEXEC), ignored=ignored, owners=owners)
        source.path = path
        return source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def choose(self, pattern: str, excludes: Sequence[str] = ()) -> list[Chosen]:
        """What ``pattern`` names.  Raises NothingThere for a name without wildcards that isn't there; a wildcard may match nothing."""
        excluded = Patterns(excludes)
        wanted = _clean(pattern)
        if not is_wild(wanted):
            found = self.resolved(wanted)
            if found is None or self._ignored_whole(wanted, found):
                raise NothingThere(wanted)
            return self._one(wanted, found, excluded)
        chosen: list[Chosen] = []
        for path in self._matching(wanted):
            found = self.resolved(path)
            if found is not None and not self._ignored_whole(path, found):
                chosen.extend(self._one(path, found, excluded))
        return chosen

    def archive_kind(self, chosen: Chosen) -> bool:
        """Whether a chosen file's first bytes are those of a compressed file or of a tar header."""
        head = self._head(chosen.path)
        return bool(kind_of(head)) or is_header(head)

    def open_file(self, path: str, directory: str) -> int:
        """A descriptor of one file's content, the caller's.  ``directory``: for a copy, where it has no file of its own."""
        return files.open_in_root(self.fd, path, os.O_RDONLY | os.O_NONBLOCK)

    def unpacked(self) -> str:
        """The directory's path on the host."""
        return self.path

    def descriptors(self) -> tuple[int, ...]:
        """What `item` counts on, borrowed."""
        return (self.fd,)

    def item(self, chosen: Chosen, descriptor: int, name: str) -> Item:
        """What `place` copies.  ``descriptor``: the index of the first of `descriptors`; ``name``: what a single file is to be called."""
        if chosen.is_directory:
            mtime_ns = self._status(chosen.path).st_mtime_ns
            return Item(kind="tree", descriptor=descriptor, path=chosen.path, name=name, entries=chosen.entries, mtime_ns=mtime_ns)
        return Item(kind="file", descriptor=descriptor, path=chosen.path, name=name)

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file's content, whether or not it is ignored."""
        return files.read_small_file(self.fd, path, limit_bytes)

    def resolved(self, path: str) -> str | None:
        """``path`` with its symlinks followed inside the root, as a relative path; None when nothing is there."""
        try:
            fd = files.open_in_root(self.fd, path or ".", os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return _follow(self.fd, path, status)

    def _ignored_whole(self, asked: str, found: str) -> bool:
        for path in {asked, found}:
            if path and self.ignored.matches(path) and not self.ignored.may_hold_kept(path):
                return True
        return False

    def _one(self, asked: str, path: str, excluded: Patterns) -> list[Chosen]:
        name = posixpath.basename(asked)
        if path == "" or self._is_directory(path):
            return [self._directory(path, name, excluded)]
        if excluded and (excluded.matches(name) or excluded.matches(path)):
            return []
        return [self._file(path, name)]

    def _directory(self, path: str, name: str, excluded: Patterns) -> Chosen:
        whole = Sum()
        entries: list[str] = []
        size = 0
        fd = files.open_beneath(self.fd, path or ".", _DIRECTORY)
        try:
            for entry, folder_fd, last, status in self._walk(fd, path, "", excluded):
                entries.append(entry)
                size += self._add(whole, entry, folder_fd, last, f"{path}/{entry}" if path else entry, status)
        finally:
            os.close(fd)
        return Chosen(path=path, name=name, is_directory=True, entries=tuple(entries), digest=whole.digest(), size_bytes=size)

    def _file(self, path: str, name: str) -> Chosen:
        parent, _, last = path.rpartition("/")
        whole = Sum()
        fd = files.open_beneath(self.fd, parent or ".", _DIRECTORY)
        try:
            size = self._add(whole, "", fd, last, path, os.stat(last, dir_fd=fd, follow_symlinks=False))
        finally:
            os.close(fd)
        return Chosen(path=path, name=name, is_directory=False, entries=(), digest=whole.digest(), size_bytes=size)

    def _dropped(self, inside: str, path: str, excluded: Patterns) -> bool:
        """Whether an entry is left out by itself.  ``inside``: its path in the root; ``path``: below what was asked for."""
        return bool(self.ignored and self.ignored.matches(inside)) or bool(excluded and excluded.matches(path))

    def _may_hold_kept(self, inside: str, path: str, excluded: Patterns) -> bool:
        return (not self.ignored.matches(inside) or self.ignored.may_hold_kept(inside)) and (
            not excluded.matches(path) or excluded.may_hold_kept(path)
        )

    def _is_directory(self, path: str) -> bool:
        return stat.S_ISDIR(self._status(path).st_mode)

    def _status(self, path: str) -> os.stat_result:
        fd = files.open_beneath(self.fd, path or ".", os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _head(self, path: str) -> bytes:
        """A file's first block, empty for what is no regular file."""
        fd = files.open_in_root(self.fd, path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 512) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)

    def _walk(self, fd: int, base: str, prefix: str, excluded: Patterns) -> Iterator[tuple[str, int, str, os.stat_result]]:
        """Entries below ``fd``, parents first and sorted: (path, descriptor of its directory, name, status)."""
        with os.scandir(fd) as found:
            listed = sorted(found, key=lambda entry: entry.name)
        for entry in listed:
            path = prefix + entry.name
            inside = f"{base}/{path}" if base else path
            dropped = self._dropped(inside, path, excluded)
            if dropped and not (entry.is_dir(follow_symlinks=False) and self._may_hold_kept(inside, path, excluded)):
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                continue
            if not dropped:
                yield path, fd, entry.name, status
            if stat.S_ISDIR(status.st_mode):
                below = os.open(entry.name, _OPEN | os.O_DIRECTORY, dir_fd=fd)
                try:
                    held = self._walk(below, base, path + "/", excluded)
                    if dropped:
                        held = _with_parent(held, (path, fd, entry.name, status))
                    yield from held
                finally:
                    os.close(below)

    def _add(self, whole: Sum, entry: str, folder_fd: int, name: str, path: str, status: os.stat_result) -> int:
        """Add one entry, ``path`` in the root, to a digest; the size of what is a file."""
        mode = status.st_mode
        size, more = 0, ""
        if stat.S_ISREG(mode):
            size = status.st_size
            body, more = self._body(folder_fd, name, path)
            whole.add_body(body)
        elif stat.S_ISLNK(mode):
            more = os.readlink(name, dir_fd=folder_fd)
        whole.add((tell(entry, mode, f"{status.st_uid}:{status.st_gid}" if self.owners else "", size, more),))
        return size

    def _body(self, folder_fd: int, name: str, path: str) -> tuple[bytes, str]:
        """A file's bytes, or their digest, and what is told of its attributes."""
        fd = os.open(name, _OPEN, dir_fd=folder_fd)
        try:
            size = os.fstat(fd).st_size
            if size > Limits().total_bytes:  # no layer could hold it; one of holes costs who makes it nothing
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
            if size <= SMALL:
                body = os.read(fd, SMALL)
            else:
                body = self._known.get(path) or _digest_of(fd)
                self._known[path] = body
            attributes = [(name, os.getxattr(fd, name).hex()) for name in os.listxattr(fd) if name.startswith(_KEPT_XATTRS)]
            return body, tell_attributes(attributes)
        finally:
            os.close(fd)

    def _matching(self, pattern: str) -> list[str]:
        """Paths that Go's filepath.Match takes, sorted."""
        found = [""]
        for component in pattern.split("/"):
            if not is_wild(component):
                found = [f"{path}/{component}".lstrip("/") for path in found]
                continue
            matches = name_matcher(component)
            following: list[str] = []
            for path in found:
                following.extend(f"{path}/{name}".lstrip("/") for name in self._names(path) if matches(name))
            found = following
        return sorted(found)

    def _names(self, path: str) -> list[str]:
        try:
            fd = files.open_in_root(self.fd, path or ".", _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)


def tell(entry: str, mode: int, owner: str, size: int, more: str = "") -> str:
    """What a `Sum` has of one entry.  ``more``: a symlink's text, or what `tell_attributes` tells; no part of it contains a zero."""
    return f"{entry}\0{mode:o} {owner} {size} {more}\0"


def tell_attributes(attributes: Iterable[tuple[str, str]]) -> str:
    """Of names and values in hexadecimal."""
    return "".join(f"{len(name)} {name}={value} " for name, value in sorted(attributes))


def read_ignore_file(source: Source, dockerfile: str) -> Patterns:
    """The rules of a context: ``<Dockerfile>.dockerignore`` beside the Dockerfile, else ``.dockerignore``."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            text = source.read(name, 1 << 20)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return Patterns(patterns_of(text.decode("utf-8", "replace")))
    return Patterns(())


def _clean(pattern: str) -> str:
    """Relative to the root; ``..`` stops there, as Docker clips it."""
    cleaned = posixpath.normpath("/" + pattern).lstrip("/")
    return "" if cleaned == "." else cleaned


def _digest_of(fd: int) -> bytes:
    """Of what is left of a file."""
    hashed = hashlib.sha256()
    while chunk := os.read(fd, _PIECE):
        hashed.update(chunk)
    return hashed.digest()


def _follow(root_fd: int, path: str, target: os.stat_result) -> str:
    """The path without symlinks that leads to ``target``: component by component, links read and joined inside the root."""
    parts = [part for part in path.split("/") if part]
    done: list[str] = []
    hops = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        if part in (".", ""):
            continue
        fd = files.open_beneath(root_fd, "/".join(done) or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            link = os.readlink(part, dir_fd=fd) if stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode) else None
        finally:
            os.close(fd)
        if link is None:
            done.append(part)
            continue
        hops += 1
        if hops > 40:
            raise NothingThere(path)
        done = [] if link.startswith("/") else done
        parts = [*link.split("/"), *parts]
    return "/".join(done)


def _with_parent(held: Iterator[T], parent: T) -> Iterator[T]:
    """The directory itself in front, but only when something in it is kept."""
    for number, one in enumerate(held):
        if number == 0:
            yield parent
        yield one
