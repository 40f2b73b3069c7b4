"""manifest inspect against a registry in this process."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.forked import exit_code

from wherry.cli.main import main
from wherry.cli.registry import challenge_fields
from wherry.kernel.mount import MS_PRIVATE, MS_REC, mount, set_propagation
from wherry.kernel.namespace import CLONE_NEWNS, unshare

MANIFEST = {"schemaVersion": 2, "layers": []}


class Answer(BaseHTTPRequestHandler):
    log: ClassVar[list[tuple[str, str | None]]] = []
    realm = ""

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.log.append((f"POST {self.path} {form}", self.headers.get("Authorization")))
        return self.reply(200, {"access_token": "T"}, {})

    def do_GET(self) -> None:
        base = self.realm or f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]  # HTTPServer has it
        self.log.append((f"GET {self.path}", self.headers.get("Authorization")))
        if self.path.startswith("/token"):
            return self.reply(200, {"token": "T"}, {})
        if self.headers.get("Authorization") != "Bearer T":
            return self.reply(401, {}, {"WWW-Authenticate": f'Bearer realm="{base}/token",service="s,x",scope="repository:a:pull"'})
        return self.reply(200, MANIFEST, {}) if self.path.endswith("/a/manifests/1") else self.reply(404, {}, {})

    def reply(self, status: int, body: object, headers: dict[str, str]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), "Content-Type": "application/x", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class Certificates:
    def __init__(self, root: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs the program openssl")
        self.certificate, self.key = root / "server.crt", root / "server.key"
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 2 -keyout {self.key}"
        command += f" -out {self.certificate} -addext subjectAltName=IP:127.0.0.1"
        subprocess.run(command.split(), check=True, capture_output=True)


@contextmanager
def serving(certificates: Certificates | None = None) -> Iterator[tuple[str, type[Answer]]]:
    """A registry, and what it answers and has been asked."""

    class Own(Answer):
        log: ClassVar[list[tuple[str, str | None]]] = []

    with HTTPServer(("127.0.0.1", 0), Own) as server:
        if certificates is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificates.certificate, certificates.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            Own.realm = f"https://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", Own
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def registry() -> Iterator[str]:
    with serving() as (host, _):
        yield host


def logged_in(directory: Path, host: str, **more: str) -> None:
    entry = {"auth": base64.b64encode(b"alice:secret").decode(), **more}
    (directory / "config.json").write_text(json.dumps({"auths": {host: entry}}))


def test_token_is_fetched_and_the_manifest_printed(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{registry}/a:1"]) == 0
    assert capsys.readouterr().out == '{\n\t"schemaVersion": 2,\n\t"layers": []\n}\n'


def test_absent_manifest_is_named(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{registry}/b"]) == 1
    assert capsys.readouterr().err == f"no such manifest: {registry}/b:latest\n"


def test_an_identity_token_is_used_in_place_of_a_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as (host, asked):
        logged_in(tmp_path, host, identitytoken="keep me")
        assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{host}/a:1"]) == 0
        form = "service=s%2Cx&scope=repository%3Aa%3Apull&grant_type=refresh_token&client_id=wherry&refresh_token=keep%20me"
        assert asked.log == [("GET /v2/a/manifests/1", None), (f"POST /token {form}", None), ("GET /v2/a/manifests/1", "Bearer T")]


def test_a_token_service_elsewhere_is_told_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as (host, asked), serving() as (elsewhere, told):
        logged_in(tmp_path, host)
        assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{host}/a:1"]) == 0
        assert "Basic " in str(asked.log[1][1])
        asked.realm = f"http://{elsewhere}"
        assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{host}/a:1"]) == 0
        assert told.log == [("GET /token?service=s%2Cx&scope=repository%3Aa%3Apull", None)]
        asked.realm = "file:///etc"
        assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{host}/a:1"]) == 1
        assert "not an http or https address" in capsys.readouterr().err


@pytest.mark.root
def test_an_authority_where_docker_has_it_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificates = Certificates(tmp_path)
    with serving(certificates) as (host, _):
        arguments = ["--config", str(tmp_path), "manifest", "inspect", f"{host}/a:1"]
        authority = certificates.certificate.read_bytes()

        def with_authority() -> int:
            unshare(CLONE_NEWNS)
            set_propagation("/", MS_REC | MS_PRIVATE)
            mount("none", "/etc", "tmpfs")
            directory = Path("/etc/docker/certs.d") / host
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(authority)
            return main(arguments)

        assert exit_code(with_authority) == 0
        assert main(arguments) == 1
        assert "tls: failed to verify certificate: x509: certificate signed by unknown authority" in capsys.readouterr().err


def test_commas_within_quotes_do_not_end_a_field() -> None:
    assert challenge_fields('realm="https://r",scope="a:pull,push", service=x') == [
        ("realm", "https://r"), ("scope", "a:pull,push"), ("service", "x"),
    ]  # fmt: skip
