"""Archives are read by others: the store hands descriptors over and gets facts back.

A `Start` begins a function of `tree.parsing`, by name, somewhere; the engine's does it in a confined process. The store never looks into
an archive itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

from wherry.spec.digest import Digest
from wherry.store.layer import HashingSource, check_digest, write_all
from wherry.store.snapshot import Composed, LayerFacts
from wherry.tree.apply import Whiteouts
from wherry.tree.erofs_builder import Builder
from wherry.tree.erofs_format import TooLarge
from wherry.tree.growing import MARK
from wherry.tree.parsing import PARSERS, WINDOW, write_index
from wherry.tree.tar import Entry, InvalidArchive, Kind, Limits, Source

PATIENCE_S: Final = 900.0
_CHUNK: Final = 1 << 20


class Job(Protocol):
    """A function that runs."""

    def result(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Its answer; it changes nothing any more.  Raises InvalidArchive, also when it died or took too long; OSError."""

    def end(self) -> None:
        """Nobody wants the answer any more, or has it: nothing of it is left when this returns."""


Start = Callable[[str, Mapping[str, Any], Sequence[int]], Job]


def inline(name: str, arguments: Mapping[str, Any], fds: Sequence[int]) -> Job:
    """A `Start` that uses a thread of this process, for a store that nobody attacks."""
    return _Thread(name, arguments, [os.dup(fd) for fd in fds])


class _Thread:
    def __init__(self, name: str, arguments: Mapping[str, Any], fds: list[int]) -> None:
        self._name = name
        self._arguments = arguments
        self._fds = fds
        self._answer: dict[str, Any] = {}
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"parse-{name}", daemon=True)
        self._thread.start()

    def result(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        return self._answer

    def end(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._answer = PARSERS[self._name](self._arguments, self._fds)
        except (InvalidArchive, OSError) as error:
            self._failure = error
        finally:
            for fd in self._fds:
                os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What `tree.parsing.index` tells."""

    size_bytes: int
    sparse_bytes: int
    index_sum: int
    tar_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """How the root directory of a new layer looks, and whether nothing lies below it."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    lowest: bool = True


class Reading:
    """A function that runs over a tar, which may still be written meanwhile.  Leaving the context ends it."""

    def __init__(self, start: Start, name: str, arguments: Mapping[str, Any], fds: Sequence[int], *, growing: bool) -> None:
        """``fds`` stay the caller's: all that the function takes but the pipe that tells, where the tar is ``growing``, how far it is."""
        self._marks = -1
        self._broken = False
        marks: list[int] = []
        try:
            if growing:
                reader, self._marks = os.pipe()
                marks.append(reader)
            self._job = start(name, arguments, [*fds, *marks])
        except BaseException:
            self._close()
            raise
        finally:
            for fd in marks:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        self._job.end()

    def mark(self, size_bytes: int) -> None:
        """So much of the tar is written."""
        if self._marks >= 0 and not self._broken:
            try:
                os.write(self._marks, MARK.pack(size_bytes))
            except BrokenPipeError:
                self._broken = True

    def check(self) -> None:
        """Raises what made the work end early."""
        if self._broken:
            self._job.result()

    def answer(self) -> dict[str, Any]:
        """The tar is whole: wait for what is found.  Raises InvalidArchive, OSError."""
        self._close()
        return self._job.result()

    def _close(self) -> None:
        if self._marks >= 0:
            os.close(self._marks)
            self._marks = -1


class Indexing(Reading):
    """The index of the tar at ``tar_path`` on its way, with the file of its sparse files; both must not exist yet."""

    def __init__(
        self, start: Start, tar_path: str, sparse_path: str, index_path: str, *, base: Base, limits: Limits, growing: bool = False
    ) -> None:
        self._sparse_path = sparse_path
        fds: list[int] = []
        try:
            fds.append(os.open(tar_path, os.O_RDONLY | os.O_CLOEXEC))
            _open_made(fds, sparse_path, index_path)
            root = [base.mode, base.uid, base.gid, base.mtime_ns]
            arguments = {"root": root, "lowest": base.lowest, "limits": asdict(limits)}
            super().__init__(start, "index", arguments, fds, growing=growing)
        finally:
            for fd in fds:
                os.close(fd)

    def finish(self) -> Indexed:
        """The tar is whole: wait for the index.  Raises InvalidArchive, OSError."""
        found = Indexed(**self.answer())
        if not found.sparse_bytes:
            os.unlink(self._sparse_path)
        return found


def compose(layer: Composed, tar_path: str, sparse_path: str, index_path: str) -> tuple[Digest, Indexed]:
    """The tar of a layer that is made here, and its index.  None of the files exists yet.  Raises OSError."""
    fds: list[int] = []
    try:
        fds.append(os.open(tar_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _open_made(fds, sparse_path, index_path)
        tar_fd, sparse_fd, index_fd, scratch_fd = fds
        builder = Builder(scratch_fd)
        diff_id = layer.write(tar_fd, builder)
        found = write_index(builder, os.fstat(tar_fd).st_size, sparse_fd, index_fd, scratch_fd)
    finally:
        for fd in fds:
            os.close(fd)
    os.unlink(sparse_path)
    return diff_id, Indexed(**found)


def _open_made(fds: list[int], sparse_path: str, index_path: str) -> None:
    """Add to ``fds`` what an index is made in: the files of these paths, which must not exist yet, and one without a name beside them."""
    for path in (sparse_path, index_path):
        fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with tempfile.TemporaryFile(dir=os.path.dirname(index_path)) as scratch:
        fds.append(os.dup(scratch.fileno()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A layer to be merged: its index, and size and tag of each of its devices."""

    index_path: str
    devices: Sequence[tuple[int, str]]


def merge(start: Start, parts: Sequence[Part], path: str, *, lowest: bool) -> int:
    """Make the file ``path``, an index over all layers, base first; its CRC-32.  Raises TooLarge, InvalidArchive, OSError."""
    with contextlib.ExitStack() as stack:
        merged = stack.enter_context(open(path, "x+b"))
        indexes, scratch = (stack.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(path))) for _ in range(2))
        sizes = [_append(part.index_path, indexes) for part in parts]  # more than descriptors that can be handed over
        indexes.flush()
        arguments = {"sizes": sizes, "devices": [device for part in parts for device in part.devices], "lowest": lowest}
        job = start("merge", arguments, [indexes.fileno(), merged.fileno(), scratch.fileno()])
        stack.callback(job.end)
        found = job.result()
        if found["too_large"]:
            raise TooLarge("more blocks than one index can number")
        os.fsync(merged.fileno())
        return int(found["index_sum"])


def _append(path: str, out: BinaryIO) -> int:
    """The file's size."""
    with open(path, "rb") as file:
        shutil.copyfileobj(file, out, _CHUNK)
        return file.tell()


class Outline:
    """The entries of the tar in ``source``, as `tar_reader.Reader` gives them: headers are read elsewhere, bodies here."""

    def __init__(self, start: Start, source: Source, limits: Limits) -> None:
        self._source = source
        self._held = memoryview(b"")  # what was read of the source and not used up: its first byte is at ``_position``
        self._position = 0
        self._end = 0  # of the current entry's data
        self._talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._job = start("outline", {"limits": asdict(limits)}, [theirs.fileno()])
            except BaseException:
                self._talk.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._talk.close()
        self._job.end()

    def __iter__(self) -> Iterator[Entry]:
        """Raises InvalidArchive."""
        while (message := self._hear()) is not None:
            if "want" in message:
                position, size = message["want"]
                self._answer(b"=" + bytes(self._peek(position, min(size, WINDOW))))
            elif "skip" in message:
                self._answer(b"%d" % self._pass(message["skip"]))
            else:
                self._pass(message["offset"])
                self._end = message["offset"] + message["size"]
                yield _entry(message["entry"])
        self._job.result()

    def read(self, size: int = 1 << 20) -> memoryview:
        """At most ``size`` bytes of the current entry's data, empty at its end."""
        wanted = min(size, self._end - self._position)
        if wanted <= 0:
            return memoryview(b"")
        if not self._held and not self._more():
            raise InvalidArchive("unexpected EOF")
        return self._take(wanted)

    def drain(self) -> None:
        """Read the source to its end."""
        self._held = memoryview(b"")
        while self._source.read(1 << 20):
            pass

    def _hear(self) -> dict[str, Any] | None:
        try:
            data = self._talk.recv(1 << 17)
        except ConnectionResetError:
            return None
        found: dict[str, Any] | None = json.loads(data) if data else None
        return found

    def _answer(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._talk.sendall(data)

    def _peek(self, position: int, size: int) -> memoryview:
        self._pass(position)
        if not self._held:
            self._more()
        return self._held[:size]

    def _pass(self, position: int) -> int:
        """Use the source up to there: how much is missing."""
        while (missing := position - self._position) > 0:
            if not self._held and not self._more():
                return missing
            self._take(missing)
        return 0

    def _take(self, size: int) -> memoryview:
        data = self._held[:size]
        self._held = self._held[size:]
        self._position += len(data)
        return data

    def _more(self) -> bool:
        self._held = memoryview(self._source.read(1 << 20))
        return len(self._held) > 0


def _entry(fields: Mapping[str, Any]) -> Entry:
    return Entry(
        name=fields["name"],
        kind=Kind(fields["kind"].encode()),
        mode=fields["mode"],
        size=fields["size"],
        link=fields["link"],
        segments=[] if fields["sparse"] else None,
    )


def wide_pipe() -> tuple[int, int]:
    """The ends of a pipe as large as is allowed: fewer turns between the two sides."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with suppress(PermissionError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _CHUNK)
    return reader, writer


def unpack(start: Start, stream: Source, target: str, whiteouts: Whiteouts, limits: Limits, expected: Digest | None) -> LayerFacts:
    """Unpack a plain layer into the directory ``target`` and hash it, to its end.  Raises InvalidArchive, DigestMismatch, OSError."""
    reader, writer = wide_pipe()
    with contextlib.ExitStack() as undo:
        out = undo.enter_context(os.fdopen(writer, "wb", buffering=0))
        with os.fdopen(reader):
            directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                job = start("unpack", {"whiteouts": whiteouts.value, "limits": asdict(limits)}, [reader, directory])
            finally:
                os.close(directory)
        undo.callback(job.end)
        undo.callback(out.close)  # first: who reads must see that no more comes
        with HashingSource(stream) as source:
            try:
                while data := source.read(_CHUNK):
                    write_all(out, data)
            except BrokenPipeError:
                job.result()
                raise
            diff_id = source.digest()
        out.close()
        found = job.result()
    check_digest(diff_id, expected)
    return LayerFacts(diff_id=diff_id, size_bytes=found["size_bytes"])
