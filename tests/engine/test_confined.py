"""Archives are read by processes that can do nothing else, and whose death or hunger is a clear error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import lzma
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from wherry.engine.confined import Confined
from wherry.images.compression import PlainReader
from wherry.kernel import credentials, landlock
from wherry.runtime import channel
from wherry.runtime.supervisor import Supervisor
from wherry.spec.mounts import Rootfs
from wherry.store.parsing import Job
from wherry.tree.compression import BadStream
from wherry.tree.growing import MARK
from wherry.tree.tar import InvalidArchive

pytestmark = pytest.mark.root
Try = Callable[[Job, int], Any]


def experiment(tmp_path: Path, body: Try, *, arguments: dict[str, Any] | None = None) -> Any:
    """``body`` in a worker thread, with a job that reads a growing tar, and the end that tells how far it is."""
    given = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("tar", "sparse", "index", "scratch")]
    reader, writer = os.pipe()

    async def main() -> Any:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            start = Confined(supervisor)

            def work() -> Any:
                job = start("index", {"root": [0o755, 0, 0, 0], "lowest": True, **(arguments or {})}, [*given, reader])
                try:
                    return body(job, writer)
                finally:
                    job.end()

            return await asyncio.to_thread(work)
        finally:
            await supervisor.close()

    try:
        return asyncio.run(main())
    finally:
        for fd in (*given, reader, writer):
            os.close(fd)


def reader_of(path: Path) -> int:
    """The confined process that has this file open.  Fails when there is none for long: it has ended, or is not confined."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
                if str(path) in opened and "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text():
                    return int(pid)
    raise AssertionError(f"no confined process has {path} open")


def test_the_reader_has_no_rights_and_no_other_descriptors(tmp_path: Path) -> None:
    def body(job: Job, writer: int) -> tuple[dict[str, str], list[str]]:
        pid = reader_of(tmp_path / "tar")
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        opened = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2)
        return status, opened

    status, opened = experiment(tmp_path, body)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert opened == sorted(["pipe", "socket", *(str(tmp_path / name) for name in ("tar", "sparse", "index", "scratch"))])
    assert landlock.version()


def test_a_reader_that_dies_is_a_clear_error(tmp_path: Path) -> None:
    def body(job: Job, writer: int) -> None:
        os.kill(reader_of(tmp_path / "tar"), signal.SIGSEGV)
        with pytest.raises(InvalidArchive, match="the process that read the archive died"):
            job.result()

    experiment(tmp_path, body)


def test_a_reader_that_hangs_is_ended(tmp_path: Path) -> None:
    def body(job: Job, writer: int) -> int:
        pid = reader_of(tmp_path / "tar")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(InvalidArchive, match="could not be read within 0 s"):
            job.result(0.2)
        return os.pidfd_open(pid) if os.path.exists(f"/proc/{pid}") else -1

    pidfd = experiment(tmp_path, body)
    if pidfd >= 0:
        os.close(pidfd)


class TakenOver(Supervisor):
    """What answers is in the hands of the archive, and goes on after it has answered."""

    PROGRAM = """
import array, os, signal, socket, sys
talk, pidfd = socket.socket(fileno=int(sys.argv[1])), os.pidfd_open(os.getpid())
talk.sendmsg([b'{"event": "running"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))])
talk.send(b'{"event": "done", "result": {}}')
signal.pause()
"""
    process: subprocess.Popen[bytes]

    async def parse(self, name: str, arguments: dict[str, Any], fds: Sequence[int]) -> socket.socket:
        ours, theirs = channel.pair()
        with theirs:
            self._begin(theirs.fileno())
        return ours

    def _begin(self, talk_fd: int) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", self.PROGRAM, str(talk_fd)], pass_fds=[talk_fd])


def test_who_has_answered_can_do_nothing_more() -> None:
    async def main() -> int | None:
        hostile = TakenOver()
        start = Confined(hostile)
        job = await asyncio.to_thread(start, "index", {}, [])
        try:
            assert await asyncio.to_thread(job.result, 30.0) == {}
            return hostile.process.poll()
        finally:
            job.end()
            hostile.process.kill()
            hostile.process.wait()

    assert asyncio.run(main()) == -signal.SIGKILL


def test_an_answer_comes_though_the_tar_grows(tmp_path: Path) -> None:
    def body(job: Job, writer: int) -> dict[str, Any]:
        (tmp_path / "tar").write_bytes(bytes(1024))
        os.write(writer, MARK.pack(1024))
        with pytest.raises(InvalidArchive, match="within"):
            job.result(0.1)
        return {}

    assert experiment(tmp_path, body) == {}


def test_all_that_an_archive_may_hold_is_unpacked(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE), ("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "d/f", 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"abc"))
        for name in ("d/f", ".wh.gone", "d/.wh..wh..opq"):  # replaced; then overlayfs's marks
            tar.addfile(tarfile.TarInfo(name))
        pipe = tarfile.TarInfo("p")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)

    async def main() -> dict[str, Any]:
        supervisor = Supervisor()
        await supervisor.start()
        reader, writer = os.pipe()
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.write(writer, data.getvalue())
            os.close(writer)
            start = Confined(supervisor)

            def work() -> dict[str, Any]:
                job = start("unpack", {"whiteouts": "overlay"}, [reader, directory])
                try:
                    return job.result()
                finally:
                    job.end()

            return await asyncio.to_thread(work)
        finally:
            os.close(reader)
            os.close(directory)
            await supervisor.close()

    assert asyncio.run(main())["entries"] == 8
    assert sorted(os.listdir(target)) == ["d", "gone", "h", "l", "p"]
    assert (target / "d/f").read_bytes() == b""
    assert (target / "h").read_bytes() == b"abc"
    assert os.getxattr(target / "d", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lzma.compress])
def test_compressed_streams_are_made_plain_elsewhere(pack: Callable[[bytes], bytes]) -> None:
    data = os.urandom(1 << 20) * 3

    async def main() -> bytes:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            start = Confined(supervisor)
            whole = await asyncio.to_thread(lambda: PlainReader(io.BytesIO(pack(data)), start).read())
            with pytest.raises(BadStream):
                await asyncio.to_thread(lambda: PlainReader(io.BytesIO(pack(data)[:-9] + b"damaged"), start).read())
            return whole
        finally:
            await supervisor.close()

    assert asyncio.run(main()) == data


def test_work_inside_a_root_can_reach_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    reader, writer = os.pipe()

    async def main() -> dict[str, str]:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            task = asyncio.ensure_future(supervisor.task(Rootfs(upper=str(tmp_path / "root")), "unpack", {"path": "/"}, [reader]))
            pid = await asyncio.to_thread(reader_of, Path(os.readlink(f"/proc/self/fd/{reader}")))
            with open(f"/proc/{pid}/status") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
            os.write(writer, bytes(1024))
            os.close(writer)
            await task
            return status
        finally:
            await supervisor.close()

    status = asyncio.run(main())
    os.close(reader)
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == tasks_capabilities()


def tasks_capabilities() -> int:
    names = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
    return credentials.mask(names)
