"""Files that ADD brings from elsewhere: a download over HTTP(S), and a compressed archive made plain."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from wherry.spec.proxies import Proxies

_CHUNK = 1 << 18
_PATIENCE_S = {"sock_connect": 30, "sock_read": 60}


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


async def download(url: str, directory: str, proxies: Proxies, reason: Callable[[BaseException], str]) -> Downloaded:
    """Fetch ``url`` into ``directory``; ``reason`` tells what went wrong on the way.  Raises FetchError."""
    import aiohttp

    shown = without_credentials(url)
    name = posixpath.basename(unquote(urlsplit(url).path))
    path = os.path.join(directory, "download")
    hashed = hashlib.sha256()
    timeout = aiohttp.ClientTimeout(total=None, **_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, proxy=proxies.for_url(url)) as response,
        ):
            if response.status >= 400:
                raise FetchError(f"failed to GET {shown} with status {response.status} {response.reason}")
            with open(path, "wb", opener=_private) as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    hashed.update(chunk)
                    file.write(chunk)
            modified = response.headers.get("Last-Modified")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FetchError(f'Get "{shown}": {reason(error)}') from error
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
