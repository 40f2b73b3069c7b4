"""ADD from the network, against a real server on loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest
from aiohttp import web

from wherry.build.failures import BuildFailed, DockerfileError
from wherry.build.fetch import is_git, without_credentials

from .conftest import Bench


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("inner")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    return gzip.compress(buffer.getvalue())


@pytest.fixture(scope="module")
def server(bench: Bench) -> Iterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/x.tgz":
            return web.Response(body=archive())
        if request.path == "/dir/file.txt":
            return web.Response(body=b"fetched\n", headers={"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"})
        return web.Response(status=404)

    async def start() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    runner, address = bench.run(start())
    yield address
    bench.run(runner.cleanup())


@pytest.mark.root
def test_a_file_keeps_its_name_time_and_gets_mode_600(bench: Bench, server: str) -> None:
    text = f"FROM base\nADD {server}/dir/file.txt /d/\nADD {server}/dir/file.txt /named\nRUN cat /named; stat -c '%a %Y %u' /d/file.txt\n"
    assert bench.build(text).output.splitlines() == ["fetched", "600 1445412480 0"]


@pytest.mark.root
def test_an_archive_is_unpacked_only_when_asked(bench: Bench, server: str) -> None:
    text = f"FROM base\nADD {server}/x.tgz /a/\nADD --unpack {server}/x.tgz /b/\nRUN find /a /b -type f\n"
    assert bench.build(text).output.split() == ["/a/x.tgz", "/b/inner"]


@pytest.mark.root
def test_checksums_are_compared(bench: Bench, server: str) -> None:
    right = "sha256:" + hashlib.sha256(b"fetched\n").hexdigest()
    bench.build(f"FROM base\nADD --checksum={right} {server}/dir/file.txt /d/\n")
    wrong = "sha256:" + "0" * 64
    with pytest.raises(BuildFailed, match=f"digest mismatch {right}: {wrong}"):
        bench.build(f"FROM base\nADD --checksum={wrong} {server}/dir/file.txt /d/\n")
    with pytest.raises(DockerfileError, match="checksum requires HTTP"):
        bench.build(f"FROM base\nADD --checksum={wrong} a /d/\n", {"a": ""})


@pytest.mark.root
def test_failures_name_the_address_without_credentials(bench: Bench, server: str) -> None:
    with pytest.raises(BuildFailed, match=r"ADD failed: failed to GET http://127\.0\.0\.1:[0-9]+/none with status 404") as failure:
        bench.build(f"FROM base\nADD {server.replace('//', '//user:pw@')}/none?token=t /d/\n")
    assert "pw" not in str(failure.value)
    assert "token" not in str(failure.value)
    assert bench.left() == ([], [])


def test_addresses() -> None:
    assert without_credentials("https://u:p@h:8/x?t=1#f") == "https://h:8/x"
    assert [is_git(source) for source in ("git@h:x", "https://h/x.git#main", "https://h/x.tgz", "x.git")] == [True, True, False, False]
