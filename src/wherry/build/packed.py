"""A build context as it came: one tar in a file without a name, and in memory a listing of what is in it.

Nothing is unpacked: files are hashed in the tar and copied out of it, so that a context costs one write however many files it has. The
few steps that need a directory (a bind mount of the context) get one then.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import BinaryIO, Protocol

from wherry.build.context import SMALL, Chosen, Source, Sum, tell, tell_attributes
from wherry.spec.patterns import Patterns
from wherry.store.layer import write_all
from wherry.store.parsing import Reading, Start, inline
from wherry.tree.apply import Whiteouts
from wherry.tree.listing import decode
from wherry.tree.plan import Item, Packed
from wherry.tree.tar import InvalidArchive

_BLOCK = 1 << 20
_LISTING_BYTES = 2 << 30
_MAX_LINKS = 40
_ROOT = -1  # its row, so to say


class Stream(Protocol):
    def read1(self, size: int, /) -> bytes:
        """What is at hand, at most so many bytes; none at the end."""


class PackedContext(Source):
    """Files of a tar, by the names they would have unpacked.  ``directory``: where the tar, and what is unpacked after all, may lie.

    ``left``: the directory that `unpacked` made, for whoever closes the context to remove; empty when it did not.
    """

    def __init__(self, source: Stream, directory: str, start: Start = inline) -> None:
        """Takes ``source``, a plain tar, to its end.  Raises InvalidArchive, OSError."""
        self._staging = directory
        self._start = start
        self._unpacking = threading.Lock()
        self._unpacked = False
        self.left = ""
        self._digests: dict[int, bytes] = {}  # of large files, by inode
        self._folders: dict[int, dict[str, int]] = {}  # rows by name, of directories where names were looked up
        with contextlib.ExitStack() as undo:
            self._files, listed = _received(source, directory, start, undo)
            self._bytes = [undo.enter_context(memoryview(undo.enter_context(_mapped(file)))) for file in self._files]
            self._listing = decode(listed, [len(view) for view in self._bytes])
            self._undo = undo.pop_all()
        super().__init__(self._files[0].fileno())

    def close(self) -> None:
        self._bytes = []
        self._undo.close()
        self.fd = -1

    def read(self, path: str, limit_bytes: int) -> bytes:
        row = self._row(path)
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        content = None if row == _ROOT else self._content(self._listing.inodes[row])
        if content is None:
            raise OSError(errno.EINVAL, "not a regular file", path)
        if len(content) > limit_bytes:
            raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
        return bytes(content)

    def resolved(self, path: str) -> str | None:
        found = self._find(path)
        return None if found is None else found[0]

    def open_file(self, path: str, directory: str) -> int:
        content = self._content(self._listing.inodes[self._existing(path)])
        with tempfile.TemporaryFile(dir=directory) as copy:
            copy.write(content or b"")
            copy.flush()
            copy.seek(0)
            return os.dup(copy.fileno())

    def descriptors(self) -> tuple[int, ...]:
        return tuple(file.fileno() for file in self._files)

    def item(self, chosen: Chosen, descriptor: int, name: str) -> Item:
        packed = tuple(self._packed([self._listing.inodes[row] for row in chosen.rows]))
        if not chosen.is_directory:
            return Item(kind="file", descriptor=descriptor, path=chosen.path, name=name, packed=packed)
        top = self._existing(chosen.path)
        mtime_ns = None if top == _ROOT else self._listing.times_ns[self._listing.inodes[top]]
        entries = chosen.entries
        return Item(kind="tree", descriptor=descriptor, path=chosen.path, name=name, entries=entries, packed=packed, mtime_ns=mtime_ns)

    def unpacked(self) -> str:
        """A directory with all of it, made when it is first asked for.  It is left when the context is closed: see ``left``."""
        with self._unpacking:
            if not self._unpacked:
                self.left = tempfile.mkdtemp(prefix="context-", dir=self._staging)
                root_fd = os.open(self.left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._files[0].seek(0)
                    arguments = {"whiteouts": Whiteouts.LITERAL.value}
                    job = self._start("unpack", arguments, [self._files[0].fileno(), root_fd])
                    try:
                        job.result()
                    finally:
                        job.end()
                finally:
                    os.close(root_fd)
                self._unpacked = True
        return self.left

    # -- what choosing asks for

    def _is_directory(self, path: str) -> bool:
        return self._listing.is_directory(self._existing(path))

    def _file(self, path: str, name: str) -> Chosen:
        rows = [self._existing(path)]
        digest, size = self._sum(rows, [""])
        return Chosen(path=path, name=name, is_directory=False, entries=(), digest=digest, size_bytes=size, rows=rows)

    def _head(self, path: str) -> bytes:
        content = self._content(self._listing.inodes[self._existing(path)])
        return b"" if content is None else bytes(content[:512])

    def _names(self, path: str) -> list[str]:
        row = self._row(path)
        return [] if row is None or not self._listing.is_directory(row) else list(self._folder(row))

    def _directory(self, path: str, name: str, excluded: Patterns) -> Chosen:
        rows, entries = self._kept(path, excluded)
        digest, size = self._sum(rows, entries)
        return Chosen(path=path, name=name, is_directory=True, entries=tuple(entries), digest=digest, size_bytes=size, rows=rows)

    def _kept(self, path: str, excluded: Patterns) -> tuple[list[int], list[str]]:
        """The rows below a directory, and their paths from there.  What is left out comes all the same when something in it does not."""
        listing, top = self._listing, self._existing(path)
        filtered = bool(self.ignored) or bool(excluded)
        rows: list[int] = []
        entries: list[str] = []
        prefixes = [""]  # at each depth, of what is in the last directory there
        owed: list[tuple[int, int, str]] = []  # directories that were left out, of which nothing is kept so far: depth, row and path
        first = listing.depths[top] + 1 if top != _ROOT else 0
        row, end = top + 1, listing.ends[top] if top != _ROOT else len(listing.names)
        while row < end:
            depth = listing.depths[row] - first
            entry = prefixes[depth] + listing.names[row]
            is_directory = listing.is_directory(row)
            dropped = False
            if filtered:
                inside = f"{path}/{entry}" if path else entry
                dropped = self._dropped(inside, entry, excluded)
                if dropped and not (is_directory and self._may_hold_kept(inside, entry, excluded)):
                    row = listing.ends[row]
                    continue
                while owed and owed[-1][0] >= depth:
                    owed.pop()
            if is_directory:
                prefixes[depth + 1 :] = [entry + "/"]
            if dropped:
                owed.append((depth, row, entry))
            else:
                for _, owed_row, owed_entry in owed:
                    rows.append(owed_row)
                    entries.append(owed_entry)
                owed.clear()
                rows.append(row)
                entries.append(entry)
            row += 1
        return rows, entries

    def _sum(self, rows: list[int], entries: list[str]) -> tuple[bytes, int]:
        """The digest of these rows under these names, and the size of the files among them."""
        listing, whole = self._listing, Sum()
        inodes, modes, sizes, links, attributes = listing.inodes, listing.modes, listing.sizes, listing.links, listing.attributes
        told: list[str] = []
        total = 0
        for row, entry in zip(rows, entries, strict=True):
            inode = inodes[row]
            mode, size, more = modes[inode], 0, links.get(inode, "")
            if stat.S_ISREG(mode):
                size = sizes[inode]
                total += size
                whole.add_body(self._bytes_of(inode) if size <= SMALL else self._digest(inode))
                more = tell_attributes(attributes[inode]) if inode in attributes else ""
            told.append(tell(entry, mode, "", size, more))
        whole.add(told)
        return whole.digest(), total

    # -- names and bytes

    def _content(self, inode: int) -> memoryview | None:
        """None: it is no regular file."""
        return self._bytes_of(inode) if stat.S_ISREG(self._listing.modes[inode]) else None

    def _bytes_of(self, inode: int) -> memoryview:
        listing = self._listing
        offset = listing.offsets[inode]
        return self._bytes[listing.devices[inode]][offset : offset + listing.sizes[inode]]

    def _digest(self, inode: int) -> bytes:
        """Of a large file's bytes: once, however many instructions and names choose it."""
        digest = self._digests.get(inode)
        if digest is None:
            digest = self._digests[inode] = hashlib.sha256(self._bytes_of(inode)).digest()
        return digest

    def _packed(self, inodes: list[int]) -> Iterator[Packed]:
        listing = self._listing
        shared = {inode: inode for inode in listing.shared}
        columns = (listing.modes, listing.sizes, listing.times_ns, listing.devices, listing.offsets)
        facts = [map(column.__getitem__, inodes) for column in columns]
        few = [
            map(shared.get, inodes, repeat(-1)),
            map(listing.links.get, inodes, repeat("")),
            map(listing.attributes.get, inodes, repeat(())),
        ]
        return map(partial(tuple.__new__, Packed), zip(*facts, *few, strict=True))  # as Packed's own constructor, in a third of the time

    def _existing(self, path: str) -> int:
        """Raises FileNotFoundError; what was resolved before is there."""
        row = self._row(path)
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return row

    def _row(self, path: str) -> int | None:
        found = self._find(path)
        return None if found is None else found[1]

    def _find(self, path: str) -> tuple[str, int] | None:
        """Where ``path`` leads, through symlinks but never above the root, and what is there.  Raises OSError for links in a circle."""
        stack: list[tuple[str, int]] = [("", _ROOT)]
        pending = path.split("/")[::-1]
        hops = 0
        while pending:
            name = pending.pop()
            if not self._listing.is_directory(stack[-1][1]):
                return None
            if name == "..":
                del stack[max(1, len(stack) - 1) :]
            elif name not in ("", "."):
                row = self._folder(stack[-1][1]).get(name)
                if row is None:
                    return None
                link = self._listing.links.get(self._listing.inodes[row])
                if link is None:
                    stack.append((name, row))
                    continue
                hops += 1
                if hops > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if link.startswith("/"):
                    del stack[1:]
                pending += link.split("/")[::-1]
        return "/".join(name for name, _ in stack[1:]), stack[-1][1]

    def _folder(self, row: int) -> dict[str, int]:
        """The rows of what is in a directory, by name."""
        found = self._folders.get(row)
        if found is None:
            found = self._folders[row] = {self._listing.names[inner]: inner for inner in self._listing.inside(row)}
        return found


def _received(source: Stream, directory: str, start: Start, undo: contextlib.ExitStack) -> tuple[list[BinaryIO], bytes]:
    """The tar in a file without a name, beside it one of its sparse files where it has any; and what is listed of it, as bytes."""
    with tempfile.TemporaryDirectory(prefix="context-", dir=directory) as folder:
        names = [f"{folder}/{name}" for name in ("tar", "sparse", "listing")]
        with contextlib.ExitStack() as written:
            tar, sparse, listing = (written.enter_context(open(name, "x+b", buffering=0)) for name in names)
            # all that is handed on from here may be read only: a file that somebody cuts while it is mapped would be this process's end
            kept: list[BinaryIO] = [undo.enter_context(open(name, "rb", buffering=0)) for name in names[:2]]
            with Reading(start, "listing", {}, [kept[0].fileno(), sparse.fileno(), listing.fileno()], growing=True) as reading:
                _keep(source, tar, reading)
                reading.answer()
            if os.fstat(listing.fileno()).st_size > _LISTING_BYTES:
                raise InvalidArchive("the names in the archive are too many")
            listing.seek(0)
            return kept, listing.read()


def _keep(source: Stream, file: BinaryIO, reading: Reading) -> None:
    """The stream into the file, as far as its listing is on its way."""
    size_bytes = 0
    while data := source.read1(_BLOCK):
        write_all(file, data)
        size_bytes += len(data)
        reading.mark(size_bytes)
        reading.check()


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes without a copy of them; nobody can write to it any more, so that it can't become shorter."""
    if not os.fstat(file.fileno()).st_size:
        yield b""
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped
