"""manifest inspect against a registry in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from wherry.cli.main import main
from wherry.cli.registry import challenge_fields

MANIFEST = {"schemaVersion": 2, "layers": []}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        base = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]  # HTTPServer has it
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


@pytest.fixture
def registry() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_token_is_fetched_and_the_manifest_printed(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{registry}/a:1"]) == 0
    assert capsys.readouterr().out == '{\n\t"schemaVersion": 2,\n\t"layers": []\n}\n'


def test_absent_manifest_is_named(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path), "manifest", "inspect", "--insecure", f"{registry}/b"]) == 1
    assert capsys.readouterr().err == f"no such manifest: {registry}/b:latest\n"


def test_commas_within_quotes_do_not_end_a_field() -> None:
    assert challenge_fields('realm="https://r",scope="a:pull,push", service=x') == [
        ("realm", "https://r"), ("scope", "a:pull,push"), ("service", "x"),
    ]  # fmt: skip
