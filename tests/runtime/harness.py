"""Containers from a busybox tree, for the runtime's tests."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.waiting import until

from wherry.runtime import defaults
from wherry.runtime.supervisor import Process, Supervisor
from wherry.spec.launch import Attachment, ExecLaunch, ExitRecord, Launch, LogTarget
from wherry.spec.mounts import Rootfs

APPLETS = (
    "sh true false echo cat sleep id ls stat touch mkdir pwd env dd seq head wc grep mount umount hostname ps kill nc printf tr stty tty "
    "rm test chmod ln sysctl yes mknod"
)
TEMPLATE = defaults.load_seccomp_template()


def make_root(directory: Path) -> Path:
    """A root tree with busybox, two users and a group."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "data/sub"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for name in APPLETS.split():
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nal:x:1000:1000::/home/al:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nal:x:1000:\nextra:x:2000:al\n")
    (directory / "data/file").write_text("from the image\n")
    os.chown(directory / "data", 7, 8)
    (directory / "bin/badsh").write_text("#!/nope\n")
    (directory / "bin/badsh").chmod(0o755)
    (directory / "etc/plain").write_text("x")
    return directory


def config(*args: str, **process: Any) -> dict[str, Any]:
    """The OCI config of a default container."""
    capabilities = list(defaults.CAPABILITIES)
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": list(args),
            "env": [defaults.PATH],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            **process,
        },
        "root": {"path": "rootfs"},
        "hostname": "boat",
        "mounts": defaults.mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in defaults.NAMESPACES],
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
            "sysctl": dict(defaults.SYSCTLS),
            "resources": {"devices": defaults.device_rules(), "pids": {"limit": 512}},
            "seccomp": defaults.resolve_seccomp(TEMPLATE, capabilities),
        },
    }


@dataclass
class Result:
    """What came out of one container."""

    record: ExitRecord
    stdout: bytes
    stderr: bytes
    log: bytes


@dataclass
class Bench:
    """A supervisor, an image tree, and a place for containers."""

    supervisor: Supervisor
    image: Path
    place: Path
    made: list[str] = field(default_factory=list)

    def launch(self, configuration: dict[str, Any], **fields: Any) -> Launch:
        ident = secrets.token_hex(8)
        home = self.place / ident
        for name in ("upper", "work"):
            (home / name).mkdir(parents=True)
        configuration["linux"].setdefault("cgroupsPath", f"/wherry-test/{ident}")
        self.made.append(ident)
        settings: dict[str, Any] = {
            "id": ident,
            "config": configuration,
            "rootfs": Rootfs(lower=(str(self.image),), upper=str(home / "upper"), work=str(home / "work")),
            "record_dir": str(home),
            "socket_path": str(home / "sock"),
            "log": LogTarget(driver="json-file", path=str(home / "log")),
            **fields,
        }
        return Launch(**settings)

    async def run(self, configuration: dict[str, Any], *, stdin: bytes | None = None, **fields: Any) -> Result:
        """Run to the end with one client attached."""
        launch = self.launch(configuration, open_stdin=stdin is not None, stdin_once=stdin is not None, **fields)
        ours, theirs = socket.socketpair()
        attachment = Attachment(stdin=stdin is not None, stdout=True, stderr=True, multiplexed=not launch.terminal)
        with theirs, closing_on_failure(ours):
            process = await self.supervisor.run(launch, attachments=[(theirs.fileno(), attachment)])
        stdout, stderr = await exchange(ours, stdin, multiplexed=not launch.terminal)
        record = await process.wait()
        await process.acknowledge()
        log = Path(launch.log.path)
        return Result(record, stdout, stderr, log.read_bytes() if launch.log.path and log.exists() else b"")

    async def shell(self, script: str, **fields: Any) -> str:
        """Output of a shell script in a default container that must end with 0."""
        result = await self.run(config("sh", "-c", script), **fields)
        assert result.record.code == 0, (result.stdout, result.stderr)
        return result.stdout.decode()

    async def exec(self, process: Process, *args: str, stdin: bytes | None = None, **fields: Any) -> tuple[ExitRecord, bytes, bytes]:
        """Run a program in a running container."""
        ours, theirs = socket.socketpair()
        terminal = fields.get("terminal", False)
        launch = exec_launch(process, *args, open_stdin=stdin is not None, **fields)
        with theirs, closing_on_failure(ours):
            attachment = Attachment(stdin=stdin is not None, stdout=True, stderr=True, multiplexed=not terminal)
            running = await self.supervisor.execute(launch, attachments=[(theirs.fileno(), attachment)])
        stdout, stderr = await exchange(ours, stdin, multiplexed=not terminal)
        record = await running.wait()
        await running.acknowledge()
        return record, stdout, stderr


@contextmanager
def closing_on_failure(ours: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        ours.close()
        raise


def exec_launch(process: Process, *args: str, **fields: Any) -> ExecLaunch:
    """An exec of default privileges."""
    settings = {
        "id": secrets.token_hex(8),
        "container_id": process.ident,
        "process": config(*args, oomScoreAdj=0)["process"],
        "record_dir": "",
        "socket_path": "",
        "seccomp": config()["linux"]["seccomp"],
        "cgroups_path": f"/wherry-test/{process.ident}",
        **fields,
    }
    return ExecLaunch(**settings)


async def exchange(ours: socket.socket, stdin: bytes | None, *, multiplexed: bool) -> tuple[bytes, bytes]:
    """Send all of stdin, read until the end, take the frames apart."""
    reader, writer = await asyncio.open_connection(sock=ours)
    if stdin is not None:
        writer.write(stdin)
        if multiplexed:
            writer.write_eof()
    data = await reader.read()
    writer.close()
    if not multiplexed:
        return data, b""
    streams = {1: bytearray(), 2: bytearray()}
    while data:
        length = int.from_bytes(data[4:8], "big")
        streams[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return bytes(streams[1]), bytes(streams[2])


@asynccontextmanager
async def bench(image: Path, place: Path) -> AsyncIterator[Bench]:
    """A supervisor for one test."""
    supervisor = Supervisor("/wherry-test")
    await supervisor.start()
    try:
        yield Bench(supervisor, image, place)
    finally:
        await supervisor.close()


def run(check: Callable[[Bench], Coroutine[Any, Any, None]], image: Path, place: Path) -> None:
    """Run one asynchronous test with a bench, within a minute."""

    async def main() -> None:
        async with asyncio.timeout(60), bench(image, place) as b:
            await check(b)

    asyncio.run(main())


async def sleeper(b: Bench, **fields: Any) -> tuple[Process, Launch]:
    """A container that does nothing for long."""
    launch = b.launch(config("sleep", "600"), **fields)
    return await b.supervisor.run(launch), launch


async def finish(process: Process) -> None:
    """End one."""
    process.signal(signal.SIGKILL)
    await process.wait()
    await process.acknowledge()


def is_ready(b: Bench) -> bool:
    """Whether the zygote waits, with two monitors for the next requests and nobody else."""
    pid = zygote(b)
    return list(children(pid).values()) == ["wherry-spare"] * 2 and state(pid) == "S"


def first_process(b: Bench, monitor: str) -> int:
    """The living child of the one process of the zygote of that name that has one.  One that was made ahead may still be on its way out."""

    def found() -> list[int]:
        parents = [pid for pid, name in children(zygote(b)).items() if name == monitor]
        return [child for pid in parents for child in children(pid) if state(child) != "Z"]

    until(lambda: len(found()) == 1)
    return found()[0]


def children(of: int) -> dict[int, str]:
    """Pid -> name."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if int(_stat(pid)[1]) == of:
                found[pid] = comm(pid)
    return found


def kill(pid: int) -> None:
    """Kill somebody else's child; returns when it is dead."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(pid) in ("Z", ""))


def zygote(b: Bench) -> int:
    """Its pid."""
    assert b.supervisor._zygote is not None
    return b.supervisor._zygote.pid


def comm(pid: int) -> str:
    """A process's name, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def state(pid: int) -> str:
    """R, S, Z ..., "" when it is gone.  Source: proc_pid_stat(5)."""
    try:
        return _stat(pid)[0]
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
