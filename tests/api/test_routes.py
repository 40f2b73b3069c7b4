"""The table: everything a client may ask for has a handler, and finds the right one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from wherry.api import builds, containers, execs, images, networks, system, volumes
from wherry.api.routes import ROUTES, match

if TYPE_CHECKING:
    from conftest import Raw

FOUND = [
    ("GET", "/containers/json", containers.list_all, {}),
    ("GET", "/containers/json/json", containers.inspect, {"id": "json"}),
    ("GET", "/containers/a/json", containers.inspect, {"id": "a"}),
    ("DELETE", "/containers/a", containers.remove, {"id": "a"}),
    ("DELETE", "/containers/a/checkpoints/b", system.no_checkpoints, {"id": "a", "checkpoint": "b"}),
    ("POST", "/containers/a/exec", execs.create, {"id": "a"}),
    ("POST", "/exec/a/start", execs.start, {"id": "a"}),
    ("GET", "/images/json", images.list_all, {}),
    ("GET", "/images/get", images.save, {}),
    ("GET", "/images/localhost:5000/a/b:c/json", images.inspect, {"name": "localhost:5000/a/b:c"}),
    ("GET", "/images/a/b/get", images.save, {"name": "a/b"}),
    ("DELETE", "/images/a/b@sha256:00", images.remove, {"name": "a/b@sha256:00"}),
    ("POST", "/images/a/b/push", images.push, {"name": "a/b"}),
    ("GET", "/distribution/a/b:c/json", images.distribution, {"name": "a/b:c"}),
    ("GET", "/networks/", networks.list_all, {}),
    ("GET", "/networks/n", networks.inspect, {"id": "n"}),
    ("POST", "/networks/prune", networks.prune, {}),
    ("POST", "/networks/n/connect", networks.connect, {"id": "n"}),
    ("DELETE", "/volumes/v", volumes.remove, {"name": "v"}),
    ("POST", "/build", builds.build, {}),
    ("POST", "/build/prune", builds.prune, {}),
]


@pytest.mark.parametrize(("method", "path", "handler", "groups"), FOUND, ids=[f"{method} {path}" for method, path, *_ in FOUND])
def test_a_path_finds_its_handler(method: str, path: str, handler: object, groups: dict[str, str]) -> None:
    found = match(method, path)
    assert found is not None
    assert (found[0].handler, dict(found[1])) == (handler, groups)


def test_no_two_routes_are_the_same() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("path", ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/services/x/logs"])
def test_swarm_is_unavailable_in_dockers_words(client: Raw, path: str) -> None:
    status, _, body = client.request("GET", path).response()
    assert status == 503
    assert json.loads(body)["message"].startswith('This node is not a swarm manager. Use "docker swarm init" or')


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/plugins/pull"), ("GET", "/containers/a/checkpoints"), ("DELETE", "/plugins/x")],
)
def test_what_is_not_supported_says_so(client: Raw, method: str, path: str) -> None:
    status, _, body = client.request(method, path).response()
    assert status == 501
    assert "not supported" in json.loads(body)["message"]


def test_there_are_no_plugins(client: Raw) -> None:
    assert client.request("GET", "/plugins").response()[2] == b"[]\n"
