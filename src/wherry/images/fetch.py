"""An archive from a URL, for ``docker import``: fetched by the daemon, never kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wherry.errors import Internal, InvalidRequest
from wherry.registry.transport import USER_AGENT, reason
from wherry.spec.proxies import Proxies

if TYPE_CHECKING:
    import aiohttp

_CHUNK = 1 << 18
_PATIENCE_S = {"sock_connect": 30, "sock_read": 60}


def address(text: str) -> str:
    """The URL that ``text`` means; http is the usual scheme.  Raises InvalidRequest."""
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest(f'Get "{url}": unsupported protocol scheme "{parts.scheme}"')
    if not parts.hostname:
        raise InvalidRequest(f'Get "{url}": http: no Host in request URL')
    return url


@asynccontextmanager
async def opened(url: str, proxies: Proxies) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes at ``url``, once the server has agreed to send them.  Raises Internal in Docker's words, also while they come."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, **_PATIENCE_S)
    with _failing(url):
        async with (
            aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": USER_AGENT}, auto_decompress=False) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}, proxy=proxies.for_url(url)) as response,
        ):
            if response.status >= 400:
                raise Internal(f"failed to GET {url} with status {response.status} {response.reason}")
            yield _pieces(url, response)


async def _pieces(url: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with _failing(url):
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk


@contextmanager
def _failing(url: str) -> Iterator[None]:
    import aiohttp

    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Internal(f'Get "{url}": {reason(error)}') from error
