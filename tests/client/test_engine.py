"""The client against a peer whose bytes are written here."""

from __future__ import annotations

import _socket
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.client import jsontext
from wherry.client.engine import ApiError, Engine, query_string
from wherry.client.http import BrokenOff, ConnectError, Connection


class Peer:
    """Answers each request on its socket with the next of ``answers``; an empty one closes the connection instead."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):  # one that has gone
            while data := connection.recv(1 << 16):
                self.requests.append(data)
                answer = self.answers.pop(0)
                if not answer:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def reply(status: int, body: bytes, kind: str = "application/json") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind.encode(), len(body), body)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path / "s")
    yield made
    made.close()


def test_one_connection_serves_several_calls(peer: Peer) -> None:
    peer.answers = [reply(200, b'{"a":1}'), reply(201, b'{"Id":"x"}')]
    engine = Engine(peer.address)
    assert engine.get("/a") == {"a": 1}
    assert engine.post("/b", {"name": "n m"}, {"k": [True, None]}) == {"Id": "x"}
    assert peer.connections == 1
    assert peer.requests[1].startswith(b"POST /v1.51/b?name=n%20m HTTP/1.1\r\n")
    assert peer.requests[1].endswith(b'{"k":[true,null]}')
    engine.close()


def test_chunks_are_joined(peer: Peer) -> None:
    peer.answers = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\n\r\n"
    ]
    engine = Engine(peer.address)
    assert engine.get("/a") == [1, 2]
    engine.close()


def test_an_answer_that_is_broken_off_says_why(peer: Peer) -> None:
    peer.answers = [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n1;error="layer \\"x\\""\r\n']
    engine = Engine(peer.address)
    response = engine.stream("GET", "/a")
    with pytest.raises(BrokenOff, match=r'^layer "x"$'):
        response.read()
    response.close()


def test_an_error_carries_the_daemons_message_and_status(peer: Peer) -> None:
    peer.answers = [reply(404, b'{"message":"No such container: x"}')]
    engine = Engine(peer.address)
    with pytest.raises(ApiError, match="No such container: x") as caught:
        engine.get("/a")
    assert caught.value.status == 404
    engine.close()


def test_a_path_that_leads_elsewhere_is_an_error(peer: Peer) -> None:
    peer.answers = [b"HTTP/1.1 301 X\r\nLocation: /v1.51/images/tag\r\nContent-Length: 0\r\n\r\n", reply(304, b"")]
    engine = Engine(peer.address)
    with pytest.raises(ApiError, match=r"^page not found$"):
        engine.post("/images//tag")
    assert engine.post("/containers/a/start") is None
    engine.close()


def test_a_peer_that_is_older_is_asked_again_with_its_version(peer: Peer) -> None:
    peer.answers = [
        reply(400, b'{"message":"client version 1.51 is too new. Maximum supported API version is 1.43"}'),
        reply(200, b"[]"),
    ]
    engine = Engine(peer.address)
    assert engine.get("/a") == []
    assert engine.version == "1.43"
    engine.close()


def test_an_idle_connection_that_was_closed_is_replaced(peer: Peer) -> None:
    peer.answers = [reply(200, b"1"), b"", reply(200, b"2")]
    engine = Engine(peer.address)
    assert [engine.get("/a"), engine.get("/b")] == [1, 2]
    assert peer.connections == 2
    engine.close()


def test_several_requests_are_answered_in_order_with_errors_in_their_places(peer: Peer) -> None:
    peer.answers = [reply(200, b'"OK"'), reply(204, b""), reply(204, b"")]
    engine = Engine(peer.address)
    assert list(engine.call_each([("POST", "/a", None), ("POST", "/b", {"t": 1})])) == [None, None]
    engine.close()


def test_a_missing_daemon_is_started_once(tmp_path: Path) -> None:
    calls: list[int] = []
    engine = Engine(f"unix://{tmp_path}/none", start=lambda: calls.append(1))
    with pytest.raises(ConnectError, match="Cannot connect to the Docker daemon at unix://"):
        engine.get("/a")
    assert calls == [1]


def test_queries_hold_lists_maps_and_flags() -> None:
    assert query_string({"a": True, "b": False, "c": None, "d": ["x", "y"], "e": {"k": {"v": True}}, "f": 0}) == (
        "?a=1&d=x&d=y&e=%7B%22k%22%3A%7B%22v%22%3Atrue%7D%7D&f=0"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(JSON)
def test_json_is_read_back_as_written(value: object) -> None:
    text = jsontext.dump(value)
    assert jsontext.parse(text) == value
    assert jsontext.parse(jsontext.pretty(value)) == value


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), st.integers(), min_size=1), max_size=4), st.integers(0, 200))
def test_a_stream_of_values_cut_anywhere_is_read_whole(values: list[dict[str, int]], cut: int) -> None:
    text = "\r\n".join(jsontext.dump(value) for value in values)
    first, rest = jsontext.parse_many(text[:cut])
    second, rest = jsontext.parse_many(rest + text[cut:])
    assert first + second == values
    assert rest == ""


def test_large_pieces_arrive_whole_also_when_the_socket_takes_only_a_part() -> None:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    ours.settimeout(5)  # a socket with a timeout takes what it has room for
    pieces = [memoryview(bytes([number]) * size) for number, size in enumerate((700_000, 5, 32768, 1, 300_001))]
    sending = threading.Thread(target=lambda: Connection(ours, "h").send("POST", "/x", None, iter(pieces)))
    sending.start()
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += theirs.recv(1 << 16)
    sending.join()
    ours.close()
    theirs.close()
    body = received.partition(b"\r\n\r\n")[2]
    assert body == b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


WITHOUT_JSON = """
import sys
from wherry.client import jsontext
assert jsontext.parse_many('{"a":1} {"b":') == ([{"a": 1}], '{"b":')
for text in ("", "x", "{broken", '{"a" 1}', '{"a":1,}', '"abc', "[1 2]"):
    try:
        jsontext.parse(text)
    except ValueError:
        continue
    raise AssertionError(text)
assert "json.decoder" not in sys.modules
"""


def test_what_is_not_json_is_told_also_where_the_library_that_knows_its_error_is_not_loaded() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_JSON], check=True, timeout=100)
