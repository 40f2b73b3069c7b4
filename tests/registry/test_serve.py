from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.disks import in_memory
from tests.registry.conftest import WHERRY, Registry, digest_of

from wherry.registry.serve import Refusal, proxied

LAYER = bytes(range(256)) * 20_000


@pytest.fixture
def small_disk(abyss: Path) -> Iterator[Path]:
    """Of 10 MiB."""
    if os.geteuid():
        pytest.skip("needs root for a mount")
    with in_memory(abyss / "disk", size_mib=10) as place:
        yield place


def certificate(place: Path) -> tuple[str, str]:
    """An authority that has signed itself, and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs the program openssl")
    cert, key = str(place / "cert.pem"), str(place / "key.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([program, *words.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_over_tls_only_clients_of_the_authority_are_let_in(serve: Any, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with serve("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert) as registry:
        registry.tls = ssl.create_default_context(cafile=cert)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            registry.call("GET", "/v2/")
        registry.tls.load_cert_chain(cert, key)
        _, raw = registry.push("tls", "1", LAYER)
        assert registry.call("GET", "/v2/tls/manifests/1").body == raw
        assert registry.call("GET", f"/v2/tls/blobs/{digest_of(LAYER)}").body == LAYER
        assert registry.raw(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n") == b""


def test_a_request_that_runs_is_finished_before_the_server_ends(serve: Any) -> None:
    with serve() as registry:
        path = registry.begin("late")
        with registry.connect() as connection:
            connection.sendall(f"PUT {path}?digest={digest_of(b'12345')} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n123".encode())
            while registry.call("GET", "/v2/").status != 200:
                pass
            registry.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60
            while "stopping" not in registry.log.read_text():
                assert time.monotonic() < deadline
            connection.sendall(b"45")
            assert connection.recv(100).startswith(b"HTTP/1.1 201 ")
        assert registry.process.wait(60) == 0


def test_killed_while_it_takes_pushes_it_has_everything_it_acknowledged(serve: Any, tmp_path: Path) -> None:
    kept: dict[str, bytes] = {}

    def push(registry: Registry, thread: str) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            for number in itertools.count():
                tag = f"{thread}-{number}"
                _, kept[tag] = registry.push("durable", tag, os.urandom(100_000))

    for turn in range(3):
        with serve() as registry:
            threads = [threading.Thread(target=push, args=(registry, f"{turn}-{number}")) for number in range(3)]
            before = len(kept)
            for thread in threads:
                thread.start()
            while len(kept) < before + 5:
                time.sleep(0.005)
            registry.process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
    with serve() as registry:
        assert os.listdir(tmp_path / "registry" / "staging") == []
        tags = registry.call("GET", "/v2/durable/tags/list").json["tags"]
        assert set(tags) >= set(kept)
        for tag in tags:  # what can be seen is whole
            found = registry.call("GET", f"/v2/durable/manifests/{tag}")
            assert kept.get(tag, found.body) == found.body
            assert digest_of(found.body) == found.headers["docker-content-digest"]
            for layer in found.json["layers"]:
                assert digest_of(registry.call("GET", f"/v2/durable/blobs/{layer['digest']}").body) == layer["digest"]


def test_a_full_disk_is_said_and_nothing_is_half_there(serve: Any, small_disk: Path) -> None:
    data = small_disk / "data"
    with serve(data=data) as registry:
        registry.push("small", "1", b"fits")
        path = registry.begin("small")
        big = os.urandom(12 << 20)
        answer = registry.call("PATCH", path, big)
        assert (answer.status, answer.code) == (507, "UNAVAILABLE")
        assert "no space left" in answer.json["errors"][0]["message"]
        assert registry.call("GET", "/v2/small/manifests/1").status == 200
        assert registry.call("DELETE", path).status == 204
        registry.push("small", "2", os.urandom(1 << 20))
        assert registry.call("POST", f"/v2/small/blobs/uploads/?digest={digest_of(big)}", big).status == 507
        assert os.listdir(data / "uploads") == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tls-cert", "x"), "--tls-cert and --tls-key belong together"),
        (("--tls-client-ca", "x"), "--tls-client-ca means nothing without --tls-cert"),
        (("--proxy-user", "x", "--proxy-password-file", "y"), "--proxy-user means nothing without --proxy"),
        (("--s3-endpoint", "http://x"), "--s3-endpoint means nothing without --s3"),
        (("--listen", "5000"), "not ADDRESS:PORT"),
        (("--listen", "example.com:5000"), "example.com"),
        (("--tls-cert", "/nope", "--tls-key", "/nope"), "--tls-key /nope: no such file or directory"),
        (("--htpasswd", "/nope"), "registry serve: /nope: no such file or directory"),
        (("--proxy", "ftp://x"), "'ftp://x' is not the address of a registry"),
        (("--frob",), "unknown flag: --frob"),
        (("extra",), "accepts no arguments"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    command = [WHERRY, "registry", "serve", "--data", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode != 0
    assert words in done.stderr


def test_an_address_in_use_and_a_password_file_that_is_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text("ann:secret\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags, words in (
            ((), f"--listen {address}: address already in use"),
            (("--htpasswd", str(tmp_path / "htpasswd")), f"{tmp_path / 'htpasswd'}: line 1: not a scrypt or bcrypt hash"),
        ):
            command = [WHERRY, "registry", "serve", "--listen", address, "--data", str(tmp_path / "data"), *flags]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
            assert done.returncode == 1
            assert done.stderr.startswith(f"wherry registry serve: {words}")
            assert "Traceback" not in done.stderr


def test_the_hub_has_many_names() -> None:
    for text in ("docker.io", "https://registry-1.docker.io", "https://index.docker.io/"):
        assert proxied(text) == ("docker.io", ())
    assert proxied("http://127.0.0.1:5000") == ("127.0.0.1:5000", ("127.0.0.1:5000",))
    assert proxied("registry.example:5000") == ("registry.example:5000", ())
    for text in ("https://x/path", "https://user:secret@x", "https://x?y", "", "https://"):
        with pytest.raises(Refusal, match="is not the address of a registry"):
            proxied(text)
