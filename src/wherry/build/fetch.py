"""Files that ADD brings from elsewhere: a download over HTTP(S), and a compressed archive made plain."""

from __future__ import annotations

import bz2
import contextlib
import email.utils
import hashlib
import lzma
import os
import posixpath
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiohttp
import zstandard

from wherry.build.context import is_tar_header

_CHUNK = 1 << 18
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)


class FetchError(ValueError):
    """A download that failed; the message names the address, without credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A file in the build's own directory: mode 600, and the server's time when it told one."""

    path: str
    name: str
    digest: str


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def is_git(source: str) -> bool:
    """Whether ADD's source is a repository, by BuildKit's rules."""
    if source.startswith(("git@", "git://", "ssh://")):
        return True
    return is_url(source) and urlsplit(source).path.endswith(".git")


async def download(url: str, directory: str) -> Downloaded:
    """Fetch ``url`` into ``directory``.  Raises FetchError."""
    shown = without_credentials(url)
    name = posixpath.basename(unquote(urlsplit(url).path))
    path = os.path.join(directory, "download")
    hashed = hashlib.sha256()
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True, auto_decompress=False) as session, session.get(url) as response:
            if response.status >= 400:
                raise FetchError(f"failed to GET {shown} with status {response.status} {response.reason}")
            with open(path, "wb", opener=_private) as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    hashed.update(chunk)
                    file.write(chunk)
            modified = response.headers.get("Last-Modified")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FetchError(f"failed to GET {shown}: {error or type(error).__name__}") from error
    with contextlib.suppress(TypeError, ValueError):
        seconds = email.utils.parsedate_to_datetime(modified or "").timestamp()
        os.utime(path, (seconds, seconds))
    return Downloaded(path=path, name=name, digest=f"sha256:{hashed.hexdigest()}")


def without_credentials(url: str) -> str:
    """``url`` as it may be shown and kept: user, password and query are left out."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def open_archive(source_fd: int, directory: str) -> int | None:
    """A descriptor of the plain tar inside a (maybe compressed) file, or None when there is no tar in it.

    A compressed one is made plain in a file of ``directory`` that has no name.
    """
    head = os.pread(source_fd, 512, 0)
    opener = next((make for magic, make in _FORMATS.items() if head.startswith(magic)), None)
    if opener is None:
        return os.dup(source_fd) if is_tar_header(head) else None
    target = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        first = True
        for block in _plain(source_fd, opener()):
            if first and not is_tar_header(block[:512]):
                os.close(target)
                return None
            first = False
            os.write(target, block)
        if first:
            os.close(target)
            return None
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError):
        os.close(target)
        if first:
            return None
        raise
    os.lseek(target, 0, os.SEEK_SET)
    return target


class _Inflate(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Inflate:
    return zlib.decompressobj(31)


def _zstd() -> _Inflate:
    return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)


_FORMATS: dict[bytes, Callable[[], _Inflate]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def _plain(fd: int, inflate: _Inflate) -> Iterator[bytes]:
    """Blocks of at least 512 bytes (but for the last)."""
    pending = b""
    offset = 0
    while chunk := os.pread(fd, _CHUNK, offset):
        offset += len(chunk)
        pending += inflate.decompress(chunk)
        if getattr(inflate, "eof", False):
            break
        if len(pending) >= 512:
            yield pending
            pending = b""
    if pending:
        yield pending


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
