"""Progress, logs and archives on their way to a client."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from wherry.spec.docker.request import LogRequest

if TYPE_CHECKING:
    from conftest import Raw, TinyEngine


def test_progress_is_json_objects_separated_by_crlf(client: Raw) -> None:
    status, headers, body = client.request("POST", "/images/create?fromImage=foo&tag=1").response()
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body == b'{"status":"Pulling","id":"a"}\r\n'


def test_a_failure_before_the_first_record_is_a_status(client: Raw) -> None:
    status, _, body = client.request("POST", "/images/create?fromImage=absent").response()
    assert (status, json.loads(body)) == (404, {"message": "pull access denied"})


def test_a_failure_after_the_first_record_is_the_last_record(client: Raw) -> None:
    status, _, body = client.request("POST", "/images/create?fromImage=broken").response()
    assert status == 200
    assert json.loads(body.splitlines()[-1]) == {"errorDetail": {"message": "half way"}, "error": "half way"}
    assert client.request("GET", "/_ping").response()[0] == 200


def test_logs_name_the_kind_of_their_stream(client: Raw, engine: TinyEngine) -> None:
    status, headers, body = client.request("GET", "/containers/echo/logs?stdout=1&tail=5&since=1.5").response()
    assert (status, headers["content-type"]) == (200, "application/vnd.docker.multiplexed-stream")
    assert body == b"\x01\0\0\0\0\0\0\x03hi\n"
    assert engine.calls == [("logs", LogRequest(stdout=True, stderr=False, tail=5, since_ns=1_500_000_000))]


def test_logs_of_no_stream_are_refused(client: Raw) -> None:
    status, _, body = client.request("GET", "/containers/echo/logs").response()
    assert (status, json.loads(body)["message"]) == (400, "Bad parameters: you must choose at least one stream")


def test_logs_that_follow_send_their_head_at_once(client: Raw) -> None:
    assert client.request("GET", "/containers/echo/logs?stdout=1&follow=1").head()[0] == 200
    assert client.chunk() == b"\x01\0\0\0\0\0\0\x03hi\n"


def test_an_export_arrives_whole(client: Raw) -> None:
    status, headers, body = client.request("GET", "/containers/echo/export").response()
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert body == b"x" * 1000 + b"y" * 3_000_000


def test_an_export_that_fails_says_why_and_is_cut_so_that_the_client_sees_it(client: Raw) -> None:
    assert client.request("GET", "/containers/cut/export").head()[0] == 200
    assert client.chunk() == b"x" * 1000
    assert client.rest() == b'1;error="cut"\r\n'


def test_an_archive_carries_what_the_path_is(client: Raw) -> None:
    for method in ("HEAD", "GET"):
        status, headers = client.request(method, "/containers/echo/archive?path=%2Fetc").head()
        stat = json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))
        assert (status, stat) == (200, {"name": "/etc", "size": 3, "mode": 420, "mtime": "2026-11-21T03:00:00Z", "linkTarget": ""})
        if method == "GET":
            assert headers["content-type"] == "application/x-tar"
            assert client.chunk() == b"tar"


def test_an_archive_without_a_path_is_refused(client: Raw) -> None:
    status, _, body = client.request("GET", "/containers/echo/archive").response()
    assert (status, json.loads(body)["message"]) == (400, "bad parameter: pathcannot be empty")


def test_a_build_reads_its_context_and_its_parameters(client: Raw, engine: TinyEngine) -> None:
    query = "t=a&t=b:1&buildargs=%7B%22A%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D&nocache=1&rm=0&version=1"
    status, _, body = client.request("POST", f"/build?{query}", b"context", Content_Type="application/x-tar").response()
    assert (status, json.loads(body)) == (200, {"stream": "7\n"})
    (_, parameters), *_ = engine.calls
    assert (parameters.tags, parameters.build_args, parameters.labels) == (["a", "b:1"], {"A": None}, {"l": "v"})
    assert (parameters.no_cache, parameters.remove, parameters.dockerfile) == (True, False, "Dockerfile")


def test_the_buildkit_protocol_is_refused_clearly(client: Raw) -> None:
    for path in ("/session", "/grpc", "/build?version=2"):
        status, _, body = client.request("POST", path).response()
        assert status == 501
        assert "BuildKit" in json.loads(body)["message"]


def test_events_are_lines_of_json(client: Raw, engine: TinyEngine) -> None:
    status, _, body = client.request("GET", '/events?until=2&filters={"type":["container"]}'.replace('"', "%22")).response()
    assert status == 200
    assert json.loads(body)["Action"] == "start"
    assert body.endswith(b"\n")
    assert engine.calls == [("events", 0, 2_000_000_000, {"type": ("container",)})]
