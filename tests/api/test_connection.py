"""A connection taken over, or left by its client."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.api.connection import Connection

if TYPE_CHECKING:
    from conftest import Raw, Serve, TinyEngine

ATTACH = "/containers/echo/attach?stream=1&stdin=1&stdout=1&stderr=1"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


def framed(payload: bytes) -> bytes:
    return b"\x01\0\0\0" + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("path", "tty", "kind"),
    [("/v1.51" + ATTACH, False, MULTIPLEXED), ("/v1.41" + ATTACH, False, RAW), (ATTACH, True, RAW)],
)
def test_an_upgrade_names_the_kind_of_stream(client: Raw, engine: TinyEngine, path: str, tty: bool, kind: str) -> None:
    engine.tty = tty
    status, headers = client.request("POST", path, **UPGRADE).head()
    assert (status, headers["content-type"], headers["upgrade"], headers["connection"]) == (101, kind, "tcp", "Upgrade")
    client.send(b"abc")
    assert client.exactly(3 if tty else 11) == (b"ABC" if tty else framed(b"ABC"))


def test_without_an_upgrade_the_stream_follows_a_plain_200(client: Raw) -> None:
    status, headers = client.request("POST", "/v1.51" + ATTACH).head()
    assert (status, headers) == (200, {"content-type": RAW})
    client.send(b"abc")
    assert client.exactly(11) == framed(b"ABC")


def test_the_stream_begins_when_the_client_has_read_the_head(client: Raw) -> None:
    """docker-py loses what it reads together with the head."""
    client.send(f"POST {ATTACH} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nping".encode())
    assert client.exactly(1) == b"H"
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:
        assert b"PING" not in client.sock.recv(1000, socket.MSG_PEEK)
    client.head()
    assert client.exactly(12) == framed(b"PING")


@pytest.mark.parametrize("upgrade", [UPGRADE, {}], ids=["101", "200"])
def test_bytes_right_behind_the_request_reach_the_stream(client: Raw, upgrade: dict[str, str]) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in upgrade.items())
    client.send(f"POST {ATTACH} HTTP/1.1\r\nHost: d\r\n{headers}\r\nGET / HTTP/1.1\r\n\r\n".encode())
    assert client.head()[0] == (101 if upgrade else 200)
    assert client.exactly(26) == framed(b"GET / HTTP/1.1\r\n\r\n")


def test_bytes_right_behind_a_json_body_reach_the_stream(client: Raw, engine: TinyEngine) -> None:
    body = b'{"Detach":false,"Tty":false}'
    client.request("POST", "/exec/x/start", body + b"hello"[:0], **UPGRADE)
    client.send(b"hello")
    assert client.head()[0] == 101
    assert client.exactly(13) == framed(b"HELLO")


def test_a_json_body_and_the_stream_in_one_packet(client: Raw) -> None:
    body = b'{"Detach":false,"Tty":true}'
    head = f"POST /v1.51/exec/x/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    client.send(head.encode() + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + body + b"hello")
    assert client.head()[0] == 101
    assert client.exactly(13) == framed(b"HELLO")


def test_a_chunked_json_body_and_the_stream_in_one_packet(client: Raw) -> None:
    head = b"POST /exec/x/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.send(head + b"2\r\n{}\r\n0\r\n\r\nhello")
    assert client.head()[0] == 200
    assert client.exactly(13) == framed(b"HELLO")


def test_a_client_that_ends_its_input_still_gets_the_output(client: Raw) -> None:
    client.request("POST", ATTACH, **UPGRADE).head()
    client.send(b"abc")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == framed(b"ABC")


def test_much_data_passes_a_taken_over_connection_unchanged(client: Raw, engine: TinyEngine) -> None:
    engine.tty = True
    client.request("POST", ATTACH, **UPGRADE).head()
    sent = b"abcdefgh" * 8192
    for _ in range(16):
        client.send(sent)
        assert client.exactly(len(sent)) == sent.upper()


def test_an_unknown_container_is_refused_before_the_upgrade(client: Raw) -> None:
    status, _, body = client.request("POST", ATTACH.replace("echo", "nosuch"), **UPGRADE).response()
    assert (status, json.loads(body)) == (404, {"message": "No such container: nosuch"})
    assert client.request("GET", "/_ping").response()[0] == 200


@pytest.mark.parametrize(("tty", "text"), [(False, framed(b"exec failed\r\n")), (True, b"exec failed\r\n")])
def test_a_failure_after_the_upgrade_is_told_in_the_stream(client: Raw, tty: bool, text: bytes) -> None:
    client.request("POST", "/exec/failing/start", json.dumps({"Tty": tty}).encode(), **UPGRADE)
    assert client.head()[0] == 101
    assert client.rest() == text


def test_a_detached_exec_is_answered_without_a_stream(client: Raw, engine: TinyEngine) -> None:
    assert client.request("POST", "/exec/x/start", b'{"Detach":true}').response()[::2] == (200, b"")
    assert client.request("GET", "/_ping").response()[0] == 200


def test_an_exec_without_a_body_is_attached(client: Raw) -> None:
    assert client.request("POST", "/exec/x/start", **UPGRADE).head()[0] == 101


def test_wait_sends_its_head_before_the_end_is_known(client: Raw, engine: TinyEngine) -> None:
    status, headers = client.request("POST", "/containers/echo/wait?condition=next-exit").head()
    assert (status, headers["content-type"]) == (200, "application/json")
    engine.ended.set()
    assert json.loads(client.chunk()) == {"StatusCode": 7}
    assert client.chunk() == b""
    assert client.request("GET", "/_ping").response()[0] == 200


def test_wait_refuses_an_unknown_condition(client: Raw) -> None:
    status, _, body = client.request("POST", "/containers/echo/wait?condition=bogus").response()
    assert (status, json.loads(body)) == (400, {"message": 'invalid condition: "bogus"'})


def test_wait_on_an_unknown_container_is_a_404(client: Raw) -> None:
    assert client.request("POST", "/containers/nosuch/wait").response()[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/containers/echo/wait"), ("GET", "/containers/echo/logs?stdout=1&follow=1"), ("POST", "/images/create?fromImage=endless")],
)
def test_work_for_a_client_that_left_is_given_up(client: Raw, engine: TinyEngine, method: str, path: str) -> None:
    assert client.request(method, path).head()[0] == 200
    client.sock.close()
    assert engine.closed.wait(60)


def test_a_client_that_never_ends_its_head_is_dropped(serve: Serve) -> None:
    slow = serve(head_timeout_s=0.05)()
    slow.send(b"GET / HTTP/1.1\r\nHost")
    assert slow.response()[0] == 408
    assert slow.rest() == b""


def test_an_idle_client_is_kept(serve: Serve) -> None:
    dial = serve(head_timeout_s=0.05)
    idle, slow = dial(), dial()
    slow.send(b"GET")
    assert slow.response()[0] == 408
    assert idle.request("GET", "/_ping").response()[0] == 200


def test_other_clients_are_served_while_one_waits(serve: Serve, engine: TinyEngine) -> None:
    dial = serve()
    waiting, other = dial(), dial()
    waiting.request("POST", "/containers/echo/wait").head()
    assert other.request("GET", "/_ping").response()[0] == 200
    engine.ended.set()
    assert json.loads(waiting.chunk()) == {"StatusCode": 7}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 200), max_size=12))
def test_a_request_may_come_in_any_pieces(client: Raw, engine: TinyEngine, cuts: list[int]) -> None:
    data = (
        b"PUT /containers/echo/archive?path=/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n"
        b"HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    )
    engine.received.clear()
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        client.send(data[start:end])
    assert (client.response()[0], client.head()[0], bytes(engine.received)) == (200, 200, b"abcdefgh")


def test_what_tidies_up_after_a_client_is_not_cut_off_when_its_connection_is_lost_as_well() -> None:
    async def scenario() -> None:
        began, go_on, tidied = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(connection: Connection) -> None:
            connection.set_cancellable(True)
            try:
                await asyncio.Event().wait()
            finally:
                began.set()
                await go_on.wait()
                tidied.set()

        own, peer = socket.socketpair()
        loop = asyncio.get_running_loop()
        with peer:
            async with asyncio.TaskGroup() as tasks:
                transport, connection = await loop.connect_accepted_socket(lambda: Connection(serve, tasks), own)
                async with asyncio.timeout(10):
                    peer.shutdown(socket.SHUT_WR)
                    await began.wait()
                    transport.abort()
                    await connection.closed.wait()
                    go_on.set()
                    await tidied.wait()

    asyncio.run(scenario())
