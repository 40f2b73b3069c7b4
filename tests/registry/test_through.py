from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.registry.conftest import OCI_MANIFEST, WHERRY, Registry, digest_of
from tests.system.waiting import until

LAYER = bytes(range(256)) * 20_000
NOTHING = "sha256:" + "0" * 64


def _asked(behind: Registry, method: str, part: str) -> int:
    """How often the registry behind was asked."""
    assert behind.log is not None
    return sum(f'"{method} ' in line and part in line for line in behind.log.read_text().splitlines())


def test_a_cache_fetches_once_and_serves_when_the_other_is_gone(serve: Any, tmp_path: Path) -> None:
    with serve(data=tmp_path / "behind") as behind:
        digest, raw = behind.push("a/b", "1", LAYER)
        sign = behind.manifest("a/b", b"sig", subject={"mediaType": OCI_MANIFEST, "digest": digest, "size": len(raw)}, artifactType="t/s")
        behind.put("a/b", digest_of(sign), sign)
        blob = f"/v2/a/b/blobs/{digest_of(LAYER)}"
        with serve("--proxy", f"http://{behind.host}", "--proxy-ttl", "0s") as front:
            assert front.call("GET", "/v2/a/b/manifests/1").body == raw
            head = front.call("HEAD", blob)
            assert (head.status, head.headers["content-length"]) == (200, str(len(LAYER)))
            assert _asked(behind, "GET", "/blobs/") == 0
            part = front.call("GET", blob, headers={"Range": "bytes=3000000-3000009"})
            assert (part.status, part.body) == (206, LAYER[3_000_000:3_000_010])
            assert front.call("GET", blob).body == LAYER
            assert _asked(behind, "GET", "/blobs/") == 1
            assert front.call("GET", "/v2/a/b/tags/list").json == {"name": "a/b", "tags": ["1"]}
            assert [item["digest"] for item in front.call("GET", f"/v2/a/b/referrers/{digest}").json["manifests"]] == [digest_of(sign)]
            assert front.call("GET", "/v2/a/b/manifests/2").code == "MANIFEST_UNKNOWN"
            assert front.call("GET", f"/v2/a/b/blobs/{NOTHING}").code == "BLOB_UNKNOWN"
            assert front.call("HEAD", f"/v2/a/b/blobs/{NOTHING}").status == 404
            assert front.call("POST", "/v2/a/b/blobs/uploads/").status == 405
            moved, _ = behind.push("a/b", "1", b"newer")
            assert front.call("GET", "/v2/a/b/manifests/1").headers["docker-content-digest"] == moved
    with serve("--proxy", f"http://{behind.host}") as alone:
        assert alone.call("GET", f"/v2/a/b/manifests/{digest}").body == raw
        assert alone.call("GET", "/v2/a/b/manifests/1").headers["docker-content-digest"] == moved
        assert alone.call("GET", blob).body == LAYER
        assert alone.call("GET", "/v2/a/b/tags/list").json["tags"] == ["1"]
        assert alone.call("GET", "/v2/a/b/manifests/9").status == 503


def test_a_tag_is_asked_for_again_when_its_time_is_over_and_forgotten_when_deleted(serve: Any, tmp_path: Path) -> None:
    with serve(data=tmp_path / "behind") as behind, serve("--proxy", f"http://{behind.host}", "--proxy-ttl", "700ms") as front:
        old, _ = behind.push("app", "1", b"old")
        path = "/v2/app/manifests/1"
        deadline = time.monotonic() + 60
        while _asked(behind, "HEAD", path) == 0:  # when its time is over it is asked for, and fetched only if it moved
            assert front.call("GET", path).headers["docker-content-digest"] == old
            assert time.monotonic() < deadline
        assert _asked(behind, "GET", path) == 1
        assert front.call("GET", path).headers["docker-content-digest"] == old
        new, _ = behind.push("app", "1", b"new")
        while front.call("GET", path).headers["docker-content-digest"] != new:
            assert time.monotonic() < deadline
        assert behind.call("DELETE", path).status == 202
        while front.call("GET", path).status != 404:
            assert time.monotonic() < deadline
    with serve("--proxy", f"http://{behind.host}") as alone:
        assert alone.call("GET", path).status == 503  # what was deleted there is not served from here


def test_a_cache_with_a_bound_keeps_what_was_read_last_and_fetches_the_rest_again(serve: Any, tmp_path: Path) -> None:
    layers = [bytes([number]) * 1_000_000 for number in range(4)]
    data = tmp_path / "front"

    def kept() -> set[int]:
        """It may be more than the bound for the moment between coming and making room; and what goes may go while it is looked at."""
        with contextlib.suppress(FileNotFoundError):
            return {number for number, layer in enumerate(layers) if list(data.rglob(f"blobs/*/sha256-{digest_of(layer)[7:]}"))}
        return set()

    with serve(data=tmp_path / "behind") as behind:
        for number, layer in enumerate(layers):
            behind.push("app", str(number), layer)
        with serve("--proxy", f"http://{behind.host}", "--proxy-max-size", "3500k", data=data) as front:

            def read(number: int) -> None:
                assert front.call("GET", f"/v2/app/blobs/{digest_of(layers[number])}").body == layers[number]

            for number in (0, 1, 2, 0):
                read(number)
            assert kept() == {0, 1, 2}
            read(3)
            until(lambda: kept() == {0, 2, 3})
            asked = _asked(behind, "GET", "/blobs/")
            read(0)
            assert _asked(behind, "GET", "/blobs/") == asked
            read(1)
            assert _asked(behind, "GET", "/blobs/") == asked + 1
            until(lambda: kept() == {0, 1, 3})
        with serve("--proxy", f"http://{behind.host}", "--proxy-max-size", "1500k", data=data):
            assert kept() == {1}


def test_the_caches_password_goes_to_its_registry_and_nowhere_else(serve: Any, tmp_path: Path) -> None:
    line = subprocess.run([WHERRY, "registry", "passwd", "cache"], input="hunter2\n", capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(line)
    (tmp_path / "right").write_text("hunter2\n")
    (tmp_path / "wrong").write_text("hunter3\n")
    with serve("--htpasswd", str(tmp_path / "htpasswd"), data=tmp_path / "behind") as behind:
        behind.headers["Authorization"] = "Basic Y2FjaGU6aHVudGVyMg=="
        _, raw = behind.push("app", "1", LAYER)
        flags = ("--proxy", f"http://{behind.host}", "--proxy-user", "cache", "--proxy-password-file")
        with serve(*flags, str(tmp_path / "right")) as front:
            answer = front.call("GET", "/v2/app/manifests/1", headers={"Authorization": "Basic bm9ib2R5Om5vYm9keQ=="})
            assert answer.body == raw
            asked = len(behind.log.read_text().splitlines())
            assert front.call("GET", "/v2/app/manifests/1").body == raw
            assert len(behind.log.read_text().splitlines()) == asked  # a minute has not gone by
            assert front.call("GET", f"/v2/app/blobs/{digest_of(LAYER)}").body == LAYER
            assert "hunter" not in front.log.read_text() + repr(answer.headers)
        with serve(*flags, str(tmp_path / "wrong"), data=tmp_path / "other") as front:
            refused = front.call("GET", "/v2/app/manifests/1", headers=behind.headers)
            assert (refused.status, refused.code) == (403, "DENIED")
            assert "hunter" not in front.log.read_text() + repr(refused.headers) + refused.body.decode()
            assert "www-authenticate" not in refused.headers


class _Liar:
    """A registry of one repository whose blob is sent in two parts, the second when it is let go; it may be another than was asked for."""

    def __init__(self, promised: bytes, sent: bytes) -> None:
        self.go = threading.Event()
        self.asked = 0
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if "/blobs/" not in self.path:
                    self.send_response(200)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(promised)))
                self.end_headers()
                if self.command == "GET":
                    liar.asked += 1
                    self.wfile.write(sent[: len(sent) // 2])
                    liar.go.wait(60)
                    self.wfile.write(sent[len(sent) // 2 :])

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.mark.parametrize("honest", [True, False])
def test_a_blob_is_passed_on_while_it_comes_and_kept_only_if_it_is_right(serve: Any, tmp_path: Path, honest: bool) -> None:
    data = os.urandom(4 << 20)
    liar = _Liar(data, data if honest else data[:-1] + b"?")
    try:
        with serve("--proxy", f"http://{liar.host}") as front:
            path = f"/v2/app/blobs/{digest_of(data)}"
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(front.connect()) for _ in range(3)]
                bodies = []
                for client in clients:
                    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                    got = b""
                    while len(got) < 1 << 20:
                        got += client.recv(1 << 20)
                    bodies.append(got)
                liar.go.set()  # each has a part before the rest has left there
                for number, client in enumerate(clients):
                    while piece := _received(client):
                        bodies[number] += piece
            assert liar.asked == 1
            for body in (answer.partition(b"\r\n\r\n")[2] for answer in bodies):
                assert (body == data) is honest
                assert data.startswith(body)  # how much of a broken answer arrives is not the same for all
            stored = tmp_path / "registry" / "objects" / "blobs"
            assert stored.exists() is honest
            assert os.listdir(tmp_path / "registry" / "uploads") == []
            if honest:
                assert front.call("GET", path).body == data
                assert liar.asked == 1
    finally:
        liar.close()


def _received(connection: Any) -> bytes:
    try:
        return bytes(connection.recv(1 << 20))
    except ConnectionError:
        return b""
