"""Who is believed: certificates by host, on a real TLS server in this process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from tests.registry.scripted import Handler, Server, run

from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.transport import Patience, RegistryError, Untrusted
from wherry.registry.trust import Trust
from wherry.spec.proxies import Proxies
from wherry.spec.reference import parse

PATIENCE = Patience(connect_s=5, idle_s=5, retries=0)
MANIFEST = b'{"schemaVersion":2}'


@pytest.mark.parametrize(
    ("domain", "insecure"),
    [
        ("localhost:5000", True),
        ("127.3.4.5:5000", True),
        ("[::1]:5000", True),
        ("docker.io", False),
        ("10.1.2.3:5000", True),
        ("10.2.2.3:5000", False),
        ("plain.example", True),
        ("plain.example:81", True),
        ("port.example:5000", True),
        ("port.example:5001", False),
        ("localhost.example", False),
    ],
)
def test_only_loopback_and_what_the_settings_name_is_reached_without_tls(domain: str, insecure: bool) -> None:
    assert Trust(insecure=["10.1.0.0/16", "plain.example", "port.example:5000"]).is_insecure(domain) is insecure


class Papers:
    """An authority, a server's certificate for 127.0.0.1 and a client's, as files."""

    def __init__(self, root: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs the program openssl")
        self.root = root
        root.mkdir()
        self._request("authority", "-out", "ca.crt", "-keyout", "ca.key", "-addext", "basicConstraints=critical,CA:TRUE")
        for name in ("server", "client"):
            files = ("-out", f"{name}.cert", "-keyout", f"{name}.key", "-CA", "ca.crt", "-CAkey", "ca.key")
            self._request(name, *files, "-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.test", "-addext", "basicConstraints=CA:FALSE")

    def _request(self, name: str, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        command = ["openssl", "req", "-x509", *key, "-subj", f"/CN={name}", "-days", "2", *arguments]
        subprocess.run(command, cwd=self.root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers") / "all")


def trusting(tmp_path: Path, host: str, papers: Papers, *names: str) -> Trust:
    directory = tmp_path / "certs.d" / host
    directory.mkdir(parents=True)
    for name in names:
        shutil.copy(papers.root / name, directory / name)
    return Trust(certificates=[str(tmp_path / "none"), str(tmp_path / "certs.d")])


async def serve(stack: AsyncExitStack, papers: Papers, handler: Handler, *, asks_for_client: bool = False) -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.root / "ca.crt"))
    context.load_cert_chain(papers.root / "server.cert", papers.root / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED if asks_for_client else ssl.CERT_NONE
    return (await Server(handler).start(stack, context)).host


async def manifest(request: web.Request) -> web.StreamResponse:
    return web.Response(body=MANIFEST)


async def fetch(host: str, trust: Trust, proxies: Proxies | None = None) -> bytes:
    client = Client(trust=trust, patience=PATIENCE, proxies=proxies)
    try:
        return (await client.repository(parse(f"{host}/x/y:1"), Credentials()).manifest("1")).raw
    finally:
        await client.close()


def test_a_host_is_held_to_its_authority_even_on_loopback(tmp_path: Path, papers: Papers) -> None:
    async def body(stack: AsyncExitStack) -> None:
        host = await serve(stack, papers, manifest)
        assert await fetch(host, trusting(tmp_path, host, papers, "ca.crt")) == MANIFEST
        assert await fetch(host, Trust()) == MANIFEST  # loopback, and nobody said who vouches for it
        other = Papers(tmp_path / "other")
        with pytest.raises(RegistryError) as caught:
            await fetch(host, trusting(tmp_path / "wrong", host, other, "ca.crt"))
        words = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        assert str(caught.value) == f'Get "https://{host}/v2/": {words}'

    run(body)


def test_a_client_certificate_is_shown_to_its_host_and_to_no_other(tmp_path: Path, papers: Papers) -> None:
    async def body(stack: AsyncExitStack) -> None:
        shown: list[tuple[str, bool]] = []

        async def elsewhere(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            shown.append(("elsewhere", bool(request.transport.get_extra_info("peercert"))))
            return web.Response(body=MANIFEST)

        context_free = await serve(stack, papers, elsewhere)

        async def own(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            shown.append(("own", bool(request.transport.get_extra_info("peercert"))))
            if "manifests" in request.path:
                raise web.HTTPTemporaryRedirect(f"https://{context_free}/there")
            return web.json_response({})

        host = await serve(stack, papers, own, asks_for_client=True)
        assert await fetch(host, trusting(tmp_path, host, papers, "ca.crt", "client.cert", "client.key")) == MANIFEST
        assert shown == [("own", True), ("own", True), ("elsewhere", False)]
        with pytest.raises(RegistryError):
            await fetch(host, trusting(tmp_path / "bare", host, papers, "ca.crt"))

    run(body)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("client.cert",), "missing key client.key for client certificate client.cert. CA certificates must use the extension .crt"),
        (("client.key",), "missing client certificate client.cert for key client.key"),
    ],
)
def test_half_a_pair_is_named(tmp_path: Path, papers: Papers, names: tuple[str, ...], message: str) -> None:
    async def body(stack: AsyncExitStack) -> None:
        host = await serve(stack, papers, manifest)
        with pytest.raises(Untrusted) as caught:
            await fetch(host, trusting(tmp_path, host, papers, "ca.crt", *names))
        assert str(caught.value) == message

    run(body)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, papers: Papers) -> None:
    async def body(stack: AsyncExitStack) -> None:
        host = await serve(stack, papers, manifest)
        trust = trusting(tmp_path, host, papers, "ca.crt", "client.cert", "client.key")
        directory = tmp_path / "certs.d" / host
        certificate, key = directory / "client.cert", directory / "client.key"

        async def refusal() -> str:
            with pytest.raises(Untrusted) as caught:
                await fetch(host, trust)
            return str(caught.value)

        shutil.copy(papers.root / "server.key", key)
        assert await refusal() == f"tls: private key does not match public key: {key}"
        key.write_text("nothing")
        assert await refusal() == f"could not use {certificate} and {key}: not a pair in PEM form without a password"
        shutil.copy(papers.root / "client.key", key)
        (directory / "b.crt").write_text("nothing")
        assert await refusal() == f"could not use {directory}/b.crt: it holds no certificate in PEM form"
        (directory / "b.crt").unlink()
        (directory / "b.crt").mkdir()
        assert await refusal() == f"{directory}/b.crt: is a directory"

    run(body)


def test_an_authority_that_is_laid_down_after_a_refusal_counts_at_once(tmp_path: Path, papers: Papers) -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        host = await serve(stack, papers, manifest)
        plain = await asyncio.start_server(silent, "127.0.0.1", 0)
        stack.callback(plain.close)
        trust = trusting(tmp_path, host, Papers(tmp_path / "other"), "ca.crt")
        client = Client(trust=trust, patience=PATIENCE)
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{host}/x/y:1"), Credentials())
        with pytest.raises(RegistryError, match="x509: certificate signed by unknown authority"):
            await repository.manifest("1")
        shutil.copy(papers.root / "ca.crt", tmp_path / "certs.d" / host / "new.crt")
        assert (await repository.manifest("1")).raw == MANIFEST
        for path in (tmp_path / "certs.d" / host).iterdir():
            path.unlink()
        shutil.copy(papers.root / "client.cert", tmp_path / "certs.d" / host / "ca.crt")
        with pytest.raises(RegistryError, match="x509: certificate signed by unknown authority"):
            await repository.manifest("1")

        other = f"127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        with pytest.raises(RegistryError, match=r'Get "https://.*/v2/": http: server gave HTTP response to HTTPS client$'):
            await fetch(other, trusting(tmp_path, other, papers, "ca.crt"))

    run(body)


async def proxy(stack: AsyncExitStack, log: list[str]) -> str:
    """A proxy that knows alice, and no name but ``*.test``: all of those are here."""
    pipes = await stack.enter_async_context(asyncio.TaskGroup())
    alice = b"Proxy-Authorization: Basic " + base64.b64encode(b"alice:secret")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, rest = head.split(b" ", 2)
        log.append(f"{method.decode()} {target.decode()}")
        if alice not in rest:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        place = target if method == b"CONNECT" else target.split(b"/")[2]
        assert place.rpartition(b":")[0].endswith(b".test")
        inner, outer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(b":")[2]))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            outer.write(head)
        pipes.create_task(pump(reader, outer))
        pipes.create_task(pump(inner, writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    stack.callback(server.close)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_registry_behind_a_proxy_is_reached_through_it_and_held_to_its_authority(tmp_path: Path, papers: Papers) -> None:
    async def body(stack: AsyncExitStack) -> None:
        log: list[str] = []
        address = await proxy(stack, log)
        port = (await serve(stack, papers, manifest)).rpartition(":")[2]
        host = f"registry.test:{port}"
        trust = trusting(tmp_path, host, papers, "ca.crt")
        known = Proxies(http=f"alice:secret@{address}", https=f"http://alice:secret@{address}", no="other.test")
        assert await fetch(host, trust, known) == MANIFEST
        assert log == [f"CONNECT {host}"]  # one connection, for the ping too
        with pytest.raises(RegistryError, match="x509: certificate signed by unknown authority"):
            await fetch(host, Trust(), known)
        with pytest.raises(RegistryError, match=rf'Get "https://{host}/v2/": Proxy Authentication Required'):
            await fetch(host, trust, Proxies(https=f"http://{address}"))
        with pytest.raises(RegistryError, match=r"proxyconnect tcp: dial tcp 127\.0\.0\.1:1: connect: connection refused"):
            await fetch(host, trust, Proxies(https="127.0.0.1:1"))
        with pytest.raises(RegistryError, match=r"lookup registry\.test"):
            await fetch(host, trust, Proxies(https=f"http://alice:secret@{address}", no=".test"))

        host = f"plain.test:{(await Server(manifest).start(stack)).port}"
        log.clear()
        assert await fetch(host, Trust(insecure=[host]), known) == MANIFEST
        assert log == [f"CONNECT {host}", f"GET http://{host}/v2/"]

    run(body)
