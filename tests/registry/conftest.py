"""Our registry as a process of its own, Debian's beside it, and a client that says exactly what it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.system.registry import registry
from tests.system.waiting import logged

WHERRY = str(Path(sys.executable).parent / "wherry")
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = b'{"architecture":"amd64","os":"linux"}'


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self) -> str:
        """Of the first error; nothing for an answer that is no JSON."""
        return str(json.loads(self.body)["errors"][0]["code"]) if "json" in self.headers.get("content-type", "") else ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Registry:
    """``call`` makes one request; ``push`` an image of one layer."""

    host: str
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        if self.tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self.host, timeout=20, context=self.tls)
        else:
            connection = http.client.HTTPConnection(self.host, timeout=20)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            data = response.read()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        host, _, port = self.host.partition(":")
        return socket.create_connection((host, int(port)), 10)

    def raw(self, data: bytes) -> bytes:
        """What comes back on a bare socket until the other side closes it, or says nothing for a while."""
        with self.connect() as connection:
            connection.sendall(data)
            connection.settimeout(3)
            got = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while piece := connection.recv(65536):
                    got += piece
            return got

    def begin(self, name: str) -> str:
        """The path of a new upload."""
        answer = self.call("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202, answer.body
        location = answer.headers["location"]
        return location[location.index("/v2/") :]

    def blob(self, name: str, data: bytes, digest: str = "") -> str:
        digest = digest or digest_of(data)
        path = self.begin(name)
        answer = self.call("PUT", path + ("&" if "?" in path else "?") + f"digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    def push(self, name: str, tag: str, layer: bytes = b"layer", **more: Any) -> tuple[str, bytes]:
        raw = self.manifest(name, layer, **more)
        answer = self.put(name, tag, raw)
        assert answer.status == 201, answer.body
        assert answer.headers["docker-content-digest"] == digest_of(raw)
        return digest_of(raw), raw

    def put(self, name: str, what: str, raw: bytes) -> Answer:
        return self.call("PUT", f"/v2/{name}/manifests/{what}", raw, {"Content-Type": json.loads(raw)["mediaType"]})

    def manifest(self, name: str, layer: bytes, **more: Any) -> bytes:
        return manifest_of(self.blob(name, CONFIG), self.blob(name, layer), len(layer), **more)


def manifest_of(config: str, layer: str, size: int, **more: Any) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(CONFIG), "digest": config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": size, "digest": layer}],
            **more,
        }
    ).encode()


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@contextlib.contextmanager
def ours_at(data: Path, *flags: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[Registry]:
    """``wherry registry serve`` on ``data``, ended with SIGTERM unless it was killed."""
    command = [WHERRY, "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(data), *flags]
    log.write_bytes(b"")
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(environment or {})}) as process:
        try:
            yield Registry(host=logged(log, r"listening on https?://(\S+)", process), process=process, log=log)
        finally:
            process.terminate()
            try:
                code = process.wait(60)
            finally:
                process.kill()
        assert code in (0, -signal.SIGKILL), log.read_text()


Serve = Callable[..., contextlib.AbstractContextManager[Registry]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """``with serve("--read-only") as registry``: one of ours, on the directory of this test unless ``data`` names another."""

    def run(
        *flags: str, data: Path | None = None, environment: dict[str, str] | None = None
    ) -> contextlib.AbstractContextManager[Registry]:
        place = data or tmp_path / "registry"
        return ours_at(place, *flags, log=tmp_path / f"{place.name}.log", environment=environment)

    return run


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("ours")
    with ours_at(root / "data", log=root / "log") as registry:
        yield registry


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with debian_at(tmp_path_factory.mktemp("debian")) as registry:
        yield registry


@contextlib.contextmanager
def debian_at(root: Path) -> Iterator[Registry]:
    """The distribution project's registry."""
    with registry(root) as found:
        yield Registry(host=found.address, process=found.process, log=found.log_path)
