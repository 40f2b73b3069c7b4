"""A very small engine behind a real server on a real socket: what HTTP itself must do can be seen without containers."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from wherry.api.ports import Chunks, LogStream, Operations, Progress
from wherry.api.server import Server
from wherry.errors import Conflict, InvalidRequest, NotFound, NotModified
from wherry.spec.docker.build import BuildParameters
from wherry.spec.docker.container import (
    ContainerCreate,
    ContainerCreated,
    ContainerInspect,
    ContainerSummary,
    ContainerWaited,
    PathStat,
)
from wherry.spec.docker.event import Event
from wherry.spec.docker.exec import ExecCreate, ExecInspect, ExecStart, ProcessConfig
from wherry.spec.docker.request import ArchiveRequest, AttachRequest, Filters, Hijack, Hijacked, LogRequest
from wherry.spec.docker.system import AuthConfig, Info, Version

IDENT = "c0ffee" * 10 + "abcd"


class TinyEngine(Operations):
    """One container, called ``echo``: it answers in capitals, and ends when its input does."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.received = bytearray()
        self.closed = threading.Event()  # a stream was closed, or a wait given up
        self.ended = threading.Event()
        self.tty = False

    async def list_containers(
        self, *, all: bool, limit: int, size: bool, filters: Filters, since: str, before: str
    ) -> Sequence[ContainerSummary]:
        self.calls.append(("list", all, limit, filters))
        return [ContainerSummary(id=IDENT, names=["/echo"])]

    async def create_container(self, body: ContainerCreate, *, name: str, platform: str) -> ContainerCreated:
        self.calls.append(("create", body, name))
        if body.image == "absent":
            raise NotFound("No such image: absent:latest")
        if name == "taken":
            raise Conflict("taken")
        if name == "broken":
            raise RuntimeError("a bug")
        return ContainerCreated(id=IDENT)

    async def inspect_container(self, ref: str, *, size: bool) -> ContainerInspect:
        self._known(ref)
        inspect = ContainerInspect(id=IDENT, name="/echo")
        inspect.state.status, inspect.state.running, inspect.state.pid = "running", True, 1
        inspect.config.tty = inspect.config.open_stdin = inspect.config.attach_stdin = self.tty
        return inspect

    async def container_logs(self, ref: str, request: LogRequest) -> LogStream:
        self._known(ref)
        self.calls.append(("logs", request))

        async def chunks() -> Chunks:
            try:
                yield b"\x01\0\0\0\0\0\0\x03hi\n"
                if request.follow:
                    await asyncio.Event().wait()
            finally:
                self.closed.set()

        return LogStream(tty=self.tty, chunks=chunks())

    async def export_container(self, ref: str) -> Chunks:
        self._known(ref)

        async def chunks() -> Chunks:
            yield b"x" * 1000
            if ref == "cut":
                raise RuntimeError("cut")
            yield b"y" * 3_000_000

        return chunks()

    async def start_container(self, ref: str) -> None:
        if ref == "running":
            raise NotModified("running")
        self._known(ref)

    async def attach_container(self, ref: str, request: AttachRequest, hijack: Hijack) -> None:
        self._known(ref)
        self.calls.append(("attach", request))
        self._echo(await hijack(self.tty), multiplexed=request.multiplexed and not self.tty)

    async def wait_container(self, ref: str, *, condition: str) -> Awaitable[ContainerWaited]:
        self._known(ref)

        async def ended() -> ContainerWaited:
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.ended.wait, 10)
            except asyncio.CancelledError:
                self.closed.set()
                raise
            return ContainerWaited(status_code=7)

        return ended()

    async def stat_path(self, ref: str, path: str) -> PathStat:
        return PathStat(name=path, size=3, mode=0o644, mtime="2026-11-21T03:00:00Z")

    async def get_archive(self, ref: str, path: str) -> tuple[PathStat, Chunks]:
        async def chunks() -> Chunks:
            yield b"tar"

        return await self.stat_path(ref, path), chunks()

    async def put_archive(self, ref: str, request: ArchiveRequest, chunks: Chunks) -> None:
        self._known(ref)
        async for chunk in chunks:
            self.received += chunk

    async def create_exec(self, ref: str, body: ExecCreate) -> str:
        self._known(ref)
        self.calls.append(("exec", body))
        return IDENT

    async def start_exec(self, ident: str, body: ExecStart, hijack: Hijack | None) -> None:
        self.calls.append(("exec_start", body))
        self._known(ident)
        if hijack is not None:
            hijacked = await hijack(body.tty)
            if ident == "failing":
                raise InvalidRequest("exec failed")
            self._echo(hijacked, multiplexed=not self.tty)

    async def resize_exec(self, ident: str, *, height: int, width: int) -> None:
        self.calls.append(("resize", height, width))

    async def inspect_exec(self, ident: str) -> ExecInspect:
        return ExecInspect(id=IDENT, exit_code=5, process_config=ProcessConfig(entrypoint="sh"), container_id=IDENT)

    async def pull_image(self, reference: str, *, tag: str, platform: str, auth: AuthConfig | None) -> AsyncIterator[Progress]:
        self.calls.append(("pull", reference, tag, auth))

        async def records() -> AsyncIterator[Progress]:
            try:
                if reference == "absent":
                    raise NotFound("pull access denied")
                yield {"status": "Pulling", "id": "a"}
                if reference == "broken":
                    raise InvalidRequest("half way")
                if reference == "endless":
                    await asyncio.Event().wait()
            finally:
                self.closed.set()

        return records()

    async def build_image(self, parameters: BuildParameters, auths: Mapping[str, AuthConfig], chunks: Chunks) -> AsyncIterator[Progress]:
        self.calls.append(("build", parameters))

        async def records() -> AsyncIterator[Progress]:
            async for chunk in chunks:
                self.received += chunk
            yield {"stream": f"{len(self.received)}\n"}

        return records()

    async def info(self) -> Info:
        return Info(id="tiny", name="tiny")

    async def version(self) -> Version:
        return Version(version="1", api_version="1.51", min_api_version="1.24")

    async def events(self, *, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[Event]:
        self.calls.append(("events", since_ns, until_ns, filters))

        async def found() -> AsyncIterator[Event]:
            yield Event(type="container", action="start")

        return found()

    def _known(self, ref: str) -> None:
        if ref == "nosuch":
            raise NotFound(f"No such container: {ref}")

    def _echo(self, hijacked: Hijacked, *, multiplexed: bool) -> None:
        client = socket.socket(fileno=socket.dup(hijacked.fd))
        client.setblocking(True)
        threading.Thread(target=self._answer, args=(client, hijacked.leftover, multiplexed), daemon=True).start()

    def _answer(self, client: socket.socket, data: bytes, multiplexed: bool) -> None:
        with client, suppress(ConnectionError):  # one that has gone
            while data or (data := client.recv(65536)):
                client.sendall(struct.pack(">BxxxI", 1, len(data)) + data.upper() if multiplexed else data.upper())
                data = b""
        self.ended.set()


@pytest.fixture
def engine() -> TinyEngine:
    return TinyEngine()


@pytest.fixture
def address(engine: TinyEngine, tmp_path: Path) -> Iterator[str]:
    """The path of a socket where ``engine`` is served."""
    with serving(str(tmp_path / "api.sock"), engine) as path:
        yield path


@pytest.fixture
def client(address: str) -> Iterator[Raw]:
    with Raw(address) as raw:
        yield raw


@pytest.fixture
def serve(engine: TinyEngine, tmp_path: Path) -> Iterator[Serve]:
    """Serve ``engine`` with settings of one's own; what comes back connects."""
    with ExitStack() as stack:

        def start(*, head_timeout_s: float = 30.0) -> Callable[[], Raw]:
            path = stack.enter_context(serving(str(tmp_path / "own.sock"), engine, head_timeout_s=head_timeout_s))
            return lambda: stack.enter_context(Raw(path))

        yield start


class Serve(Protocol):
    def __call__(self, *, head_timeout_s: float = 30.0) -> Callable[[], Raw]: ...


class Raw:
    """A client that writes the bytes it is told to."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(path)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Raw:
        """Send one request; header names with _ for -."""
        lines = [f"{method} {path} HTTP/1.1", "Host: d"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
            if "Content_Type" not in headers:
                lines.append("Content-Type: application/json")
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return self

    def head(self) -> tuple[int, dict[str, str]]:
        """The next response's status and headers (names in lower case); not one byte more is read."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            assert byte, f"closed after {data!r}"
            data += byte
        first, *lines = data.decode().split("\r\n")
        return int(first.split()[1]), {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines if line}

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, f"closed after {data!r}"
            data += more
        return data

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response, whole: by length, by chunks, or none."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(iter(self.chunk, b""))
        return status, headers, self.exactly(int(headers.get("content-length", "0")))

    def chunk(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.exactly(1)
        data = self.exactly(int(line, 16))
        assert self.exactly(2) == b"\r\n"
        return data

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        while more := self.sock.recv(65536):
            data += more
        return data


@contextmanager
def serving(path: str, engine: TinyEngine, *, head_timeout_s: float = 30.0) -> Iterator[str]:
    """A server on the unix socket ``path``, in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            server = Server(engine, tasks, head_timeout_s=head_timeout_s)
            await server.listen(f"unix://{path}")
            ready.set()
            await stop.wait()
            await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait(60)
    try:
        yield path
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
