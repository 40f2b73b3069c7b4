"""The blobs that are on their way: one of each for all who want it at the same time, readable while it comes.

What is compressed stays in a partial file until nobody has a use for it any more, so a download that ended early, however it ended, is
continued by the next one.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from wherry.images.arrivals import Arrival, ArrivingFile
from wherry.images.blocking import Run, finish
from wherry.images.flights import Flights, Progress, Spawn
from wherry.images.partials import Partial, Partials
from wherry.registry.repository import Repository
from wherry.registry.transport import Refused, Untrusted, Waiting
from wherry.spec.digest import Digest
from wherry.spec.image import Descriptor
from wherry.store.content import Content

_LETTING_GO_S = 0.02
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True, kw_only=True)
class Download:
    """One blob from one registry.  ``served``: somebody has made of it what he wanted.  ``waiting``: told of pauses between attempts."""

    key: str
    layer: Descriptor
    arrival: Arrival = field(default_factory=Arrival)
    partial: Partial | None = None
    users: int = 0
    served: bool = False
    waiting: list[Waiting] = field(default_factory=list)

    def tell_waiting(self, left_s: int) -> None:
        for tell in tuple(self.waiting):
            tell(left_s)


class Downloads:
    """``keeps_blobs``: a blob that is whole goes into content; else its partial file is all there ever is of it."""

    def __init__(self, *, content: Content, partials: Partials, flights: Flights, spawn: Spawn, run: Run, keeps_blobs: bool) -> None:
        self._content = content
        self._partials = partials
        self._flights = flights
        self._spawn = spawn
        self._run = run
        self._keeps_blobs = keeps_blobs
        self._downloads: dict[str, Download] = {}

    @asynccontextmanager
    async def wanting(self, repository: Repository, layers: Iterable[Descriptor]) -> AsyncIterator[dict[Digest, Download]]:
        """The downloads of ``layers``, none begun yet; while the block runs, what comes of them stays.

        Afterwards what has served goes, as soon as nobody else wants it; so does everything when the disk was full.
        """
        once = {layer.digest: layer for layer in layers}
        mine = {digest: self._joined(repository, layer) for digest, layer in once.items()}
        try:
            yield mine
        except BaseException as error:
            await self._leave(mine.values(), is_full=_is_full(error))
            raise
        else:
            await self._leave(mine.values(), is_full=False)

    async def fetch(self, repository: Repository, download: Download, listener: Progress, waiting: Waiting | None = None) -> None:
        """Wait until the blob is whole, and proved right.  Raises what kept it from coming."""
        told = [waiting] if waiting is not None else []
        download.waiting += told
        try:
            await self._flights.join(download.key, lambda tell: self._fetch(repository, download, tell), listener)
        finally:
            for one in told:
                download.waiting.remove(one)

    async def forget(self, layers: Iterable[Descriptor]) -> None:
        """Drop what is left of broken off downloads of ``layers``, which are here by now; what somebody fetches stays."""
        await self._run(self._partials.sweep, served={layer.digest for layer in layers})

    def open(self, download: Download, stop: threading.Event) -> BinaryIO:
        """The blob as a file, which waits for what has not come yet.  Blocking.  Raises Abandoned once ``stop`` is set."""
        _, turn = download.arrival.wait(0, None, stop)
        try:
            return self._content.open(download.layer.digest)
        except FileNotFoundError:
            partial = download.partial
            assert partial is not None
            return cast(BinaryIO, ArrivingFile(partial.reader_fd(), download.arrival, turn, stop))

    def _joined(self, repository: Repository, layer: Descriptor) -> Download:
        key = f"{repository.domain} {layer.digest} {layer.size}"
        download = self._downloads.setdefault(key, Download(key=key, layer=layer))
        download.users += 1
        return download

    async def _leave(self, downloads: Iterable[Download], *, is_full: bool) -> None:
        """Whoever leaves may be cancelled meanwhile: that is waited for only when all of it is on its way."""
        gone: list[Partial] = []
        kept: list[Partial] = []
        for download in downloads:
            download.users -= 1
            if download.users == 0:
                del self._downloads[download.key]
                if download.partial is not None:
                    (gone if download.served or is_full else kept).append(download.partial)
        if gone or kept:
            try:
                await finish(self._run(_let_go, gone, kept))
            finally:
                if gone:
                    self._spawn(self._close(gone))

    async def _close(self, partials: Sequence[Partial]) -> None:
        await self._run(_let_go, (), partials)

    async def _fetch(self, repository: Repository, download: Download, tell: Progress) -> None:
        layer, arrival = download.layer, download.arrival
        if arrival.is_whole:
            return
        if self._content.has(layer.digest):
            arrival.finish()
            return
        partial = download.partial = await self._open_partial(repository, download)
        try:
            await self._complete(repository, download, partial, tell)
            await finish(self._run(partial.commit if self._keeps_blobs else partial.check))
        except BaseException as error:
            arrival.fail()
            wrong = isinstance(error, Untrusted | Refused)
            await finish(self._run(partial.discard if wrong else partial.close))
            raise
        arrival.finish()

    async def _open_partial(self, repository: Repository, download: Download) -> Partial:
        layer = download.layer
        while True:
            try:
                return self._partials.open(layer.digest, layer.size, source=repository.domain, arrival=download.arrival)
            except BlockingIOError:  # a download that was cancelled has not let go of it yet
                await asyncio.sleep(_LETTING_GO_S)

    async def _complete(self, repository: Repository, download: Download, partial: Partial, tell: Callable[[int], None]) -> None:
        """Fetch what is missing; all of it, should that which was here not fit (a power cut may leave a hole in a file)."""

        async def write(chunk: bytes) -> None:
            await finish(self._run(partial.write, chunk))

        await finish(self._run(partial.read_again))
        begun = partial.size_bytes
        tell(begun)
        if partial.is_whole:
            return
        await repository.download(download.layer, write, tell, start=begun, waiting=download.tell_waiting)
        if begun and not partial.is_whole:
            partial.restart()
            await repository.download(download.layer, write, tell, waiting=download.tell_waiting)


def _let_go(gone: Sequence[Partial], kept: Sequence[Partial]) -> None:
    """Remove the name of each that is ``gone``, close each that is ``kept``, whatever becomes of the others.  Blocking."""
    with ExitStack() as each:
        for partial in gone:
            each.callback(partial.remove)
        for partial in kept:
            each.callback(partial.close)


def _is_full(error: BaseException) -> bool:
    """Whether the disk had no room: the partial files go too then, so that there is some again."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_full(one) for one in error.exceptions)
    return isinstance(error, OSError) and error.errno in _FULL
