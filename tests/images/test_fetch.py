"""An archive from a URL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wherry.errors import Internal, InvalidRequest
from wherry.images import fetch
from wherry.spec.proxies import Proxies


async def fetched(url: str) -> bytes:
    async with fetch.opened(url, Proxies()) as pieces:
        return b"".join([piece async for piece in pieces])


def test_http_is_the_usual_scheme_and_others_are_refused(site: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 700_000)
    assert asyncio.run(fetched(fetch.address(f"{site}/file"))) == b"x" * 700_000
    with pytest.raises(InvalidRequest, match="unsupported protocol scheme"):
        fetch.address("ftp://x")
    with pytest.raises(InvalidRequest, match="no Host in request URL"):
        fetch.address("http:///x")


def test_failures_are_told_in_dockers_words(site: str) -> None:
    with pytest.raises(Internal, match=f"failed to GET http://{site}/nosuch with status 404"):
        asyncio.run(fetched(f"http://{site}/nosuch"))
    with pytest.raises(Internal, match="connection refused"):
        asyncio.run(fetched("http://127.0.0.1:1/x"))
