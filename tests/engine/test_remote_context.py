"""Build contexts that the daemon fetches."""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from wherry.engine import remote_context
from wherry.errors import EngineError, Internal, InvalidRequest, NotSupported
from wherry.spec.proxies import Proxies


async def fetched(url: str) -> bytes:
    return b"".join([piece async for piece in remote_context.pieces(url, Proxies(), "my/Dockerfile")])


def test_an_archive_comes_as_it_is_and_a_text_as_a_dockerfile(site: str, tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * 9000)
    (tmp_path / "context.tgz").write_bytes(packed)
    (tmp_path / "text").write_bytes(b"FROM scratch\n")
    (tmp_path / "large").write_bytes(b"y" * (5 << 20))
    assert asyncio.run(fetched(f"http://{site}/context.tgz")) == packed
    with tarfile.open(fileobj=io.BytesIO(asyncio.run(fetched(f"http://{site}/text")))) as tar:
        assert tar.extractfile("my/Dockerfile").read() == b"FROM scratch\n"
    with pytest.raises(InvalidRequest, match="larger than a Dockerfile may be"):
        asyncio.run(fetched(f"http://{site}/large"))
    with pytest.raises(Internal, match=f"error downloading remote context http://{site}/nosuch: failed to GET .* with status 404"):
        asyncio.run(fetched(f"http://{site}/nosuch"))


@pytest.mark.parametrize(
    ("url", "kind"),
    [("git@host:a/b.git", NotSupported), ("https://host/a.git", NotSupported), ("github.com/a/b", NotSupported), ("x", InvalidRequest)],
)
def test_what_is_no_archive_is_refused_by_name(url: str, kind: type[EngineError]) -> None:
    with pytest.raises(kind, match=url):
        remote_context.check(url)
