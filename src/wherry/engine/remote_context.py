"""A build context at a URL, which the daemon fetches: an archive, or a Dockerfile alone.  Source: moby builder/remotecontext."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

from wherry.build.fetch import is_git, is_url
from wherry.errors import EngineError, Internal, InvalidRequest, NotSupported
from wherry.images import fetch
from wherry.spec.proxies import Proxies
from wherry.tree.compression import kind_of
from wherry.tree.tar import Entry
from wherry.tree.tar_writer import Writer

_HEAD = 512  # enough to tell an archive from a text
_DOCKERFILE_LIMIT = 4 << 20


def check(url: str) -> None:
    """Raises InvalidRequest, NotSupported."""
    if is_git(url) or url.startswith("github.com/"):
        raise NotSupported(f"building from a git repository is not supported: clone {url} and give its directory")
    if not is_url(url):
        raise InvalidRequest(f"remoteURL ({url}) could not be recognized as URL")


async def pieces(url: str, proxies: Proxies, dockerfile: str) -> AsyncIterator[bytes]:
    """The context as an archive; a text becomes one that holds it as ``dockerfile``.  Raises Internal, InvalidRequest."""
    try:
        async with fetch.opened(url, proxies) as source:
            head = b""
            async for piece in source:
                head += piece
                if len(head) >= _HEAD:
                    break
            if kind_of(head) or head[257:262] == b"ustar":
                yield head
                async for piece in source:
                    yield piece
                return
            async for piece in source:
                head += piece
                if len(head) > _DOCKERFILE_LIMIT:
                    raise InvalidRequest(f"{url} is no archive, and larger than a Dockerfile may be")
    except EngineError as error:
        raise (InvalidRequest if isinstance(error, InvalidRequest) else Internal)(
            f"error downloading remote context {url}: {error}"
        ) from error
    yield _alone(dockerfile, head)


def _alone(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    writer = Writer(out)
    writer.add(Entry(name=name, size=len(content), mode=0o644), content)
    writer.finish()
    return out.getvalue()
