"""docker-py against the server: a client that nobody here wrote."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import docker
import pytest

if TYPE_CHECKING:
    from conftest import TinyEngine


@pytest.fixture
def api(address: str) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=f"unix://{address}", version="auto", timeout=10)
    yield client
    client.close()


def test_docker_py_negotiates_creates_and_lists(api: docker.APIClient, engine: TinyEngine) -> None:
    assert api.ping()
    config = api.create_host_config(port_bindings={"80/tcp": 8080}, mem_limit="64m", binds=["/a:/b"])
    created = api.create_container("img", "echo hi", name="n", ports=[80], environment={"A": "B"}, host_config=config)
    assert created["Warnings"] == []
    _, body, name = engine.calls[-1]
    assert (name, body.image, body.cmd, body.env) == ("n", "img", ["echo", "hi"], ["A=B"])
    assert (body.host_config.memory, body.host_config.binds) == (64 << 20, ["/a:/b"])
    assert body.host_config.port_bindings["80/tcp"][0].host_port == "8080"
    assert api.containers(all=True, filters={"label": "x=y"})[0]["Names"] == ["/echo"]
    assert engine.calls[-1] == ("list", True, -1, {"label": ("x=y",)})


def test_docker_py_attaches_to_a_socket(api: docker.APIClient) -> None:
    stream = api.attach_socket("echo", params={"stdin": 1, "stdout": 1, "stream": 1})
    sock: socket.socket = stream._sock
    sock.sendall(b"abc")
    assert stream.read(11) == b"\x01\0\0\0\0\0\0\x03ABC"
    sock.close()
    stream.close()


def test_docker_py_executes_and_streams(api: docker.APIClient) -> None:
    stream = api.exec_start("x", socket=True)
    sock = stream._sock
    sock.sendall(b"abc")
    assert stream.read(11) == b"\x01\0\0\0\0\0\0\x03ABC"
    sock.close()
    stream.close()


def test_docker_py_reads_logs_pulls_and_waits(api: docker.APIClient, engine: TinyEngine) -> None:
    assert api.logs("echo", stdout=True, stderr=False) == b"hi\n"
    assert [record["status"] for record in api.pull("foo", tag="1", stream=True, decode=True)] == ["Pulling"]
    engine.ended.set()
    assert api.wait("echo") == {"StatusCode": 7}


def test_docker_py_sees_errors_as_its_own_kinds(api: docker.APIClient) -> None:
    with pytest.raises(docker.errors.NotFound, match="No such container: nosuch"):
        api.logs("nosuch")
    with pytest.raises(docker.errors.APIError, match="taken"):
        api.create_container("img", "x", name="taken")
