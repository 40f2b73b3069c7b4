"""What every request meets before and after its handler, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.system.stopwatch import Stopwatch

from wherry.api.server import Server, bind_loopback, bind_unix, clean_path
from wherry.errors import InvalidRequest, NotSupported

if TYPE_CHECKING:
    from conftest import Raw, TinyEngine


def body_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, str]:
    decoded: dict[str, str] = json.loads(answer[2])
    return decoded


def test_ping_says_what_the_daemon_is(client: Raw) -> None:
    status, headers, body = client.request("GET", "/_ping").response()
    assert (status, body) == (200, b"OK")
    assert headers["api-version"] == "1.51"
    assert headers["ostype"] == "linux"
    assert headers["docker-experimental"] == "false"
    assert headers["swarm"] == "inactive"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate"


def test_ping_by_head_has_no_body_and_the_connection_goes_on(client: Raw) -> None:
    for path in ("/_ping", "/v1.24/_ping", "/v1.51/_ping"):
        status, headers, body = client.request("HEAD", path).response()
        assert (status, headers["content-length"], body) == (200, "0", b"")


@pytest.mark.parametrize("path", ["/info", "/v1.24/info", "/v1.51/info"])
def test_every_spoken_version_and_none_are_served(client: Raw, path: str) -> None:
    assert client.request("GET", path).response()[0] == 200


def test_a_version_too_old_is_refused_in_plain_text(client: Raw) -> None:
    status, headers, body = client.request("GET", "/v1.20/info").response()
    assert status == 400
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body.startswith(b"client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client")


def test_a_version_too_new_is_refused_in_json(client: Raw) -> None:
    answer = client.request("GET", "/v1.99/info").response()
    assert answer[0] == 400
    assert body_of(answer) == {"message": "client version 1.99 is too new. Maximum supported API version is 1.51"}
    assert answer[2].endswith(b"\n")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nosuch"), ("POST", "/info"), ("PATCH", "/info"), ("GET", "/vx/info"), ("GET", "/v1.51/v1.51/info"), ("GET", "/")],
)
def test_an_unknown_page_is_not_found(client: Raw, method: str, path: str) -> None:
    answer = client.request(method, path).response()
    assert (answer[0], body_of(answer)) == (404, {"message": "page not found"})


def test_an_unclean_path_is_redirected_with_its_version(client: Raw) -> None:
    status, headers, _ = client.request("GET", "/v1.51/containers//json").response()
    assert (status, headers["location"]) == (301, "/v1.51/containers/json")


@pytest.mark.parametrize(
    ("path", "clean"), [("/a//b", "/a/b"), ("/a/./b", "/a/b"), ("/a/../../b", "/b"), ("//a", "/a"), ("/a/", "/a/"), ("/", "/"), ("", "/")]
)
def test_cleaning_a_path_follows_go(path: str, clean: str) -> None:
    assert clean_path(path) == clean


def test_a_web_page_is_refused(client: Raw) -> None:
    assert client.request("GET", "/info", Origin="http://evil.example").response()[0] == 403


def test_options_answers_with_nothing(client: Raw) -> None:
    status, headers, body = client.request("OPTIONS", "/v1.51/anything").response()
    assert (status, headers["content-length"], body) == (200, "0", b"")


@pytest.mark.parametrize(
    ("name", "image", "status", "message"),
    [
        ("", "absent", 404, "No such image: absent:latest"),
        ("taken", "x", 409, "taken"),
        ("broken", "x", 500, "a bug"),
    ],
)
def test_a_failure_has_its_status_and_message(client: Raw, name: str, image: str, status: int, message: str) -> None:
    answer = client.request("POST", f"/containers/create?name={name}", json.dumps({"Image": image}).encode()).response()
    assert (answer[0], body_of(answer)) == (status, {"message": message})
    assert client.request("GET", "/_ping").response()[0] == 200


def test_not_modified_has_no_body(client: Raw) -> None:
    status, headers, body = client.request("POST", "/containers/running/start").response()
    assert (status, body) == (304, b"")
    assert "content-length" not in headers


def test_no_content_has_no_length(client: Raw) -> None:
    status, headers, _ = client.request("POST", "/containers/echo/start").response()
    assert status == 204
    assert "content-length" not in headers


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "config cannot be empty in order to create a container"),
        (b"null", "config cannot be empty in order to create a container"),
        (b'{"Image":"x"} y', "unexpected content after JSON"),
        (b'{"Image":"x', "invalid JSON: unexpected EOF"),
        (b'{"Image":7}', "invalid JSON: "),
        (b"[]", "invalid JSON: "),
        (b"[" * 100_000, "invalid JSON: "),
        (b'{"HostConfig":' * 100_000, "invalid JSON: "),
    ],
)
def test_a_bad_body_is_told_in_dockers_words(client: Raw, body: bytes, message: str) -> None:
    answer = client.request("POST", "/containers/create", body).response()
    assert answer[0] == 400
    assert body_of(answer)["message"].startswith(message)


def test_an_absent_body_is_told(client: Raw) -> None:
    answer = client.request("POST", "/containers/create").response()
    assert body_of(answer) == {"message": "invalid JSON: got EOF while reading request body"}


def test_a_body_of_another_type_is_refused(client: Raw) -> None:
    answer = client.request("POST", "/containers/create", b"{}", Content_Type="text/plain").response()
    assert (answer[0], body_of(answer)["message"]) == (400, "unsupported Content-Type header (text/plain): must be 'application/json'")


def test_a_content_type_with_a_charset_is_json(client: Raw) -> None:
    answer = client.request("POST", "/containers/create", b'{"Image":"x"}', Content_Type="application/json; charset=utf-8").response()
    assert answer[0] == 201


def test_requests_sent_at_once_are_answered_in_order(client: Raw) -> None:
    client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\nGET /nosuch HTTP/1.1\r\nHost: d\r\n\r\nHEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    assert [client.response()[0], client.response()[0], client.head()[0]] == [200, 404, 200]


def test_a_client_that_asks_for_it_is_disconnected(client: Raw) -> None:
    assert client.request("GET", "/_ping", Connection="close").response()[0] == 200
    assert client.rest() == b""


def test_an_http_1_0_client_gets_a_stream_without_chunks(client: Raw) -> None:
    client.send(b"GET /containers/echo/export HTTP/1.0\r\n\r\n")
    status, headers = client.head()
    assert (status, headers["connection"]) == (200, "close")
    assert len(client.rest()) == 3_001_000


CHUNKED = b"PUT /containers/echo/archive?path=/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_giant_json_body_is_refused(client: Raw) -> None:
    status, _, body = client.request("POST", "/containers/create", b'{"Image":"' + b"x" * (17 << 20)).response()
    assert (status, json.loads(body)) == (400, {"message": "request body too large"})


HOSTILE = {
    "coding and length": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "line feeds": b"GET /_ping HTTP/1.1\nHost: d\n\n\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\0\x01\0\r\n\r\n",
    "bad chunk": CHUNKED + b"xyz\r\nabc",
    "chunk too long": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "chunk extension": CHUNKED + b"1;x=y\r\na\r\n0\r\n\r\n",
    "endless chunk line": CHUNKED + b"0" * 9999,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_request_is_refused_and_its_connection_closed(client: Raw, data: bytes) -> None:
    client.send(data)
    assert client.response()[0] in (400, 431)
    assert client.rest() == b""


def test_a_giant_head_is_refused_and_closed(client: Raw) -> None:
    with pytest.raises(OSError):  # the server stops reading: the rest cannot even be sent
        client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * (4 << 20))
    assert client.head()[0] == 431


def test_a_body_cut_short_ends_the_connection_without_an_answer(client: Raw, engine: TinyEngine) -> None:
    client.request("PUT", "/containers/echo/archive?path=/", Transfer_Encoding="chunked", Content_Type="application/x-tar")
    client.send(b"3\r\nabc\r\n")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == b""
    assert engine.received == b"abc"


def test_a_chunked_body_arrives_whole(client: Raw, engine: TinyEngine) -> None:
    client.request("PUT", "/containers/echo/archive?path=/", Transfer_Encoding="chunked", Content_Type="text/plain")
    sent = os.urandom(3_000_000)
    for start in range(0, len(sent), 100_000):
        part = sent[start : start + 100_000]
        client.send(b"%x\r\n%b\r\n" % (len(part), part))
    client.send(b"0\r\nTrailer: x\r\n\r\n")
    assert client.response()[0] == 200
    assert bytes(engine.received) == sent
    assert client.request("GET", "/_ping").response()[0] == 200


def test_a_client_that_expects_it_is_told_to_continue(client: Raw, engine: TinyEngine) -> None:
    client.request("PUT", "/containers/echo/archive?path=/", Content_Length="3", Expect="100-continue", Content_Type="application/x-tar")
    assert client.head()[0] == 100
    client.send(b"abc")
    assert client.response()[0] == 200
    assert engine.received == b"abc"


def test_a_client_that_expects_is_answered_at_once_when_refused(client: Raw) -> None:
    client.request("PUT", "/containers/nosuch/archive?path=/", Content_Length="3", Expect="100-continue", Content_Type="application/x-tar")
    assert client.head()[0] == 404


def test_an_unread_body_does_not_spoil_the_next_request(client: Raw) -> None:
    assert client.request("PUT", "/containers/nosuch/archive?path=/", b"a" * 1_000_000).response()[0] == 404
    assert client.request("GET", "/_ping").response()[0] == 200


def test_a_socket_is_for_its_owner_and_the_docker_group(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    with bind_unix(path):
        assert stat.S_IMODE(os.stat(path).st_mode) in (0o600, 0o660)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    bind_unix(path).close()
    with bind_unix(path), pytest.raises(FileExistsError, match="already listens"):
        bind_unix(path)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("mine")
    with pytest.raises(FileExistsError, match="not a socket"):
        bind_unix(str(tmp_path / "a.sock"))
    assert (tmp_path / "a.sock").read_text() == "mine"


def test_the_socket_file_goes_with_the_server(address: str) -> None:
    assert os.path.exists(address)


def test_tcp_is_served_on_the_loopback_only() -> None:
    for address in ("0.0.0.0:0", "[::]:0", "10.0.0.1:0"):
        with pytest.raises(NotSupported, match="loopback"):
            bind_loopback(address)
    for address in ("localhost:1", "127.0.0.1", "127.0.0.1:x"):
        with pytest.raises(InvalidRequest):
            bind_loopback(address)
    bind_loopback("127.0.0.1:0").close()


def test_a_loopback_server_refuses_other_host_names(engine: TinyEngine) -> None:
    """A browser led astray by a name that resolves to 127.0.0.1 says that name."""

    async def ask(host: str) -> bytes:
        async with asyncio.TaskGroup() as tasks:
            server, sock = Server(engine, tasks), bind_loopback("127.0.0.1:0")
            await server.serve(sock, guard_host=True)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(f"GET /info HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            await server.close()
        return answer.split()[1]

    assert [asyncio.run(ask(host)) for host in ("localhost:1", "127.0.0.1:1", "[::1]", "evil.example:1", "127.0.0.1.evil:1")] == [
        b"200",
        b"200",
        b"200",
        b"403",
        b"403",
    ]


def test_a_small_request_is_quick(client: Raw) -> None:
    client.request("GET", "/_ping").response()
    with Stopwatch() as watch:
        for _ in range(100):
            client.send(b"HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert b"200 OK" in client.sock.recv(4096)
    assert watch.seconds / 100 < 0.01


def test_who_comes_when_there_are_as_many_connections_as_may_be_is_turned_away(engine: TinyEngine, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def visit() -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await reader.read(1024))[9:12], writer
        return b"", writer

    async def visits() -> None:
        async with asyncio.TaskGroup() as tasks:
            server = Server(engine, tasks, connections=2)
            await server.listen(f"unix://{path}")
            seen = [await visit() for _ in range(3)]
            assert [answer for answer, _ in seen] == [b"200", b"200", b""]
            seen[0][1].close()
            async with asyncio.timeout(10):
                while not (late := await visit())[0]:
                    late[1].close()
            for _, writer in (*seen, late):
                writer.close()
            await server.close()

    asyncio.run(visits())
