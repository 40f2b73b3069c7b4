"""The build context as a tar stream, made while it is sent.

Entries are in the order of their names, owned by 0:0 as Docker sends them, with modification times in whole seconds; symbolic links stay
links, a second name of an inode is a hard link, sockets are left out. Small files are gathered into large pieces, all in one buffer: fresh
memory for each piece costs as much as reading the files.
"""

from __future__ import annotations

import os
import stat
from zlib import adler32

from wherry.cli.flags import Failure

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.spec.patterns import Patterns

BLOCK = 512
PIECE = 1 << 18
_SMALL = 1 << 15  # bytes of a file that is read in one go
_ROOM = _SMALL + (1 << 14)  # for what is put behind a piece that is nearly full
END = bytes(2 * BLOCK)
_ZEROS = memoryview(END)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_OCTAL_SIZE = 1 << 33


class ContextFault(Failure):
    """The context cannot be read; ``str`` says what and why."""


class ContextTar:
    """The tree at ``root`` without what ``ignore`` leaves out; ``extra`` are files of the given content, in place of any of that name.

    Iterate once for the pieces, of which each is gone when the next is asked for; ``sent`` counts their bytes.
    """

    def __init__(self, root: str, ignore: Patterns | None = None, extra: dict[str, bytes] | None = None) -> None:
        self.sent = 0
        self._root = root
        self._ignore = ignore
        self._extra = extra or {}
        self._buffer = bytearray(PIECE + _ROOM)
        self._view = memoryview(self._buffer)
        self._used = 0
        self._inodes: dict[tuple[int, int], str] = {}
        self._parents: set[str] = set()

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self._pieces():
            self.sent += len(piece)
            yield piece

    def _pieces(self) -> Iterator[memoryview]:
        yield from self._directory(self._root, "", (), skipped=False)
        for name, content in self._extra.items():
            self._put(header(name, 0o600, len(content), 0, b"0") + content + bytes(-len(content) % BLOCK))
        self._put(END)
        yield self._piece()

    def _put(self, data: bytes) -> None:
        end = self._used + len(data)
        if end > len(self._buffer):
            self._buffer = self._buffer + bytes(end)
            self._view = memoryview(self._buffer)
        self._view[self._used : end] = data
        self._used = end

    def _piece(self) -> memoryview:
        """What has been gathered; the buffer is used anew."""
        piece, self._used = self._view[: self._used], 0
        return piece

    def _directory(self, path: str, inside: str, above: Sequence[bool], *, skipped: bool) -> Iterator[memoryview]:
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=_name)
        except OSError as error:
            raise _fault(path, error) from error
        folder_fd = -1  # open while files are read that follow each other, not in all directories on the way
        try:
            for entry in entries:
                name = inside + entry.name
                if not inside and name in self._extra:
                    continue
                hits: Sequence[bool] = ()
                left_out = False
                if self._ignore is not None:
                    left_out, hits = self._ignore.match(name, above)
                folder = entry.is_dir(follow_symlinks=False)
                if folder and folder_fd >= 0:
                    os.close(folder_fd)
                    folder_fd = -1
                if left_out:
                    if folder and self._ignore is not None and self._ignore.may_hold_kept(name):
                        yield from self._directory(entry.path, name + "/", hits, skipped=True)
                    continue
                if skipped:
                    self._add_parents(inside)
                    skipped = False
                if folder:
                    facts = entry.stat(follow_symlinks=False)
                    self._put(header(name + "/", facts.st_mode & 0o7777, 0, int(facts.st_mtime), b"5"))
                    yield from self._directory(entry.path, name + "/", hits, skipped=False)
                elif entry.is_file(follow_symlinks=False):
                    if folder_fd < 0:
                        folder_fd = _opened(path, _FOLDER)
                    large = self._file(_opened(entry.path, _FILE, entry.name, folder_fd), entry.path, name)
                    if large is not None:
                        yield from large
                else:
                    self._other(entry, name)
                if self._used >= PIECE:
                    yield self._piece()
        finally:
            if folder_fd >= 0:
                os.close(folder_fd)

    def _add_parents(self, inside: str) -> None:
        """A directory that was left out holds something that was not: its own entry comes first, once."""
        parts = inside.rstrip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name not in self._parents and self._ignore is not None and self._ignore.matches(name):
                self._parents.add(name)
                facts = os.lstat(os.path.join(self._root, name))
                self._put(header(name + "/", facts.st_mode & 0o7777, 0, int(facts.st_mtime), b"5"))

    def _other(self, entry: os.DirEntry[str], name: str) -> None:
        """What is no file and no directory."""
        try:
            facts = entry.stat(follow_symlinks=False)
            mode, seconds = facts.st_mode & 0o7777, int(facts.st_mtime)
            if stat.S_ISLNK(facts.st_mode):
                self._put(header(name, 0o777, 0, seconds, b"2", os.readlink(entry.path)))
            elif stat.S_ISFIFO(facts.st_mode):
                self._put(header(name, mode, 0, seconds, b"6"))
            elif not stat.S_ISSOCK(facts.st_mode):
                kind = b"3" if stat.S_ISCHR(facts.st_mode) else b"4"
                self._put(header(name, mode, 0, seconds, kind, device=facts.st_rdev))
        except OSError as error:
            raise _fault(entry.path, error) from error

    def _file(self, descriptor: int, path: str, name: str) -> Iterator[memoryview] | None:
        """Put a file, whose descriptor is closed; of a large one what is still to come."""
        large = False
        try:
            facts = os.fstat(descriptor)  # an open file need not be looked for a second time
            mode, length, seconds = facts.st_mode & 0o7777, facts.st_size, int(facts.st_mtime)
            if facts.st_nlink > 1:
                first = self._inodes.setdefault((facts.st_dev, facts.st_ino), name)
                if first is not name:
                    self._put(header(name, mode, 0, seconds, b"1", first))
                    return None
            self._put(header(name, mode, length, seconds, b"0"))
            large = length > _SMALL
            if large:
                return self._large(descriptor, path, length)
            end = self._used + length
            while self._used < end:
                self._used += self._read(descriptor, path, end)
            self._pad(length)
            return None
        finally:
            if not large:
                os.close(descriptor)

    def _large(self, descriptor: int, path: str, length: int) -> Iterator[memoryview]:
        try:
            left = length
            while left:
                if self._used >= PIECE:
                    yield self._piece()
                taken = self._read(descriptor, path, self._used + left)
                left -= taken
                self._used += taken
            self._pad(length)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, path: str, end: int) -> int:
        """The next bytes of a file, as far as there is room and no farther than ``end``; how many."""
        taken = os.readv(descriptor, (self._view[self._used : end],))
        if not taken:
            raise ContextFault(f"{path} became shorter while it was read")
        return taken

    def _pad(self, length: int) -> None:
        end = self._used + -length % BLOCK
        if end > len(self._buffer):
            self._put(bytes(end - self._used))
            return
        self._view[self._used : end] = _ZEROS[: end - self._used]
        self._used = end


def header(name: str, mode: int, length: int, seconds: int, kind: bytes, target: str = "", device: int = 0) -> bytes:
    """A ustar header owned by 0:0, preceded by a PAX one when a name, a size or a time does not fit."""
    if not target and name.isascii() and len(name) <= 100 and length < _MAX_OCTAL_SIZE and 0 <= seconds < _MAX_OCTAL_SIZE:
        return _ustar(name.encode(), mode, length, seconds, kind, b"", device)  # nearly all
    raw = os.fsencode(name)
    link = os.fsencode(target)
    records: list[tuple[str, bytes]] = []
    if len(raw) > 100 or not name.isascii():
        records.append(("path", raw))
    if len(link) > 100 or not target.isascii():
        records.append(("linkpath", link))
    if length >= _MAX_OCTAL_SIZE:
        records.append(("size", b"%d" % length))
    if not 0 <= seconds < _MAX_OCTAL_SIZE:
        records.append(("mtime", b"%d" % seconds))
    plain = _ustar(raw[:100], mode, min(length, _MAX_OCTAL_SIZE - 1), min(max(seconds, 0), _MAX_OCTAL_SIZE - 1), kind, link[:100], device)
    if not records:
        return plain
    body = b"".join(_pax_record(key, value) for key, value in records)
    return (
        _ustar(b"PaxHeaders.0/" + raw[-80:].replace(b"/", b"_"), 0o644, len(body), 0, b"x", b"", 0)
        + body
        + bytes(-len(body) % BLOCK)
        + plain
    )


def _ustar(name: bytes, mode: int, length: int, seconds: int, kind: bytes, link: bytes, device: int) -> bytes:
    """One block: fields are padded with zero bytes, numbers are octal."""
    front = b"%b%07o\x000000000\x000000000\x00%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, length, seconds)
    back, total = _PLAIN if kind == b"0" else _back(kind, link, device)
    # of so few bytes the lower half of Adler-32 is their sum, found many times faster than by `sum`
    return b"%b%06o\0 %b" % (front, (adler32(front, 0) & 0xFFFF) + total, back)


def _back(kind: bytes, link: bytes, device: int) -> tuple[bytes, int]:
    """What stands behind the checksum, and its part of that, spaces in the checksum's own place included."""
    devices = b"%07o\0%07o\0" % (os.major(device), os.minor(device))
    block = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + devices + bytes(167)
    return block, sum(block) + 8 * 32


_PLAIN = _back(b"0", b"", 0)  # of all regular files: most of a context


def _pax_record(key: str, value: bytes) -> bytes:
    body = b" %b=%b\n" % (key.encode(), value)
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return b"%d%b" % (size, body)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _opened(path: str, flags: int, name: str | None = None, folder_fd: int | None = None) -> int:
    """``name`` in a directory, which is found sooner than by its ``path``."""
    try:
        return os.open(name or path, flags, dir_fd=folder_fd)
    except OSError as error:
        raise _fault(path, error) from error


def _fault(path: str, error: OSError) -> ContextFault:
    return ContextFault(f"error checking context: open {path}: {(error.strerror or str(error)).lower()}")


def one_file(name: str, content: bytes) -> bytes:
    """A whole tar that holds one file."""
    return header(name, 0o600, len(content), 0, b"0") + content + bytes(-len(content) % BLOCK) + END
