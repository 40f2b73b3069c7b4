"""The API's calls of the engine: what each request becomes, and which status and body its answer has."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from wherry.errors import InvalidRequest
from wherry.spec.docker.build import BuildCacheRecord, BuildPruned
from wherry.spec.docker.container import Config, ContainersPruned, ContainerTop, ContainerUpdate, ContainerUpdated
from wherry.spec.docker.exec import ExecCreate
from wherry.spec.docker.image import (
    Distribution,
    HistoryEntry,
    ImageConfig,
    ImageDeleted,
    ImageInspect,
    ImagesPruned,
    ImageSummary,
    SearchResult,
)
from wherry.spec.docker.inside import LayersReport
from wherry.spec.docker.network import Network, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect, NetworksPruned
from wherry.spec.docker.request import CachePrune, CommitRequest, ImportRequest
from wherry.spec.docker.stats import ContainerStats
from wherry.spec.docker.system import AuthConfig, Authenticated, DiskUsage
from wherry.spec.docker.volume import Volume, VolumeCreate, VolumeList, VolumesPruned
from wherry.spec.image import Platform

if TYPE_CHECKING:
    from conftest import Raw

AUTH = base64.urlsafe_b64encode(b'{"username":"u","password":"p"}').decode()
CREDENTIALS = AuthConfig(username="u", password="p")


async def progress() -> AsyncIterator[dict[str, object]]:
    yield {"status": "done"}


async def chunks() -> AsyncIterator[bytes]:
    yield b"tar"


async def samples() -> AsyncIterator[ContainerStats]:
    yield ContainerStats(name="/c")


class Recorder:
    """An engine that notes each call and answers what it was given."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def operation(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            return self.answer() if callable(self.answer) else self.answer

        return operation


@pytest.fixture
def engine() -> Recorder:
    return Recorder()


def call(name: str, /, *arguments: Any, **named: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return name, arguments, named


ARM = '{"os":"linux","architecture":"arm","variant":"v7"}'
PLATFORM = Platform(os="linux", architecture="arm", variant="v7")
NO_PLATFORM = {"message": "failed to parse platform: invalid character 'x' looking for beginning of value"}
FILTERS = "filters=%7B%22label%22%3A%5B%22a%22%5D%7D"
LABEL = {"label": ("a",)}
NO_USAGE = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}

# request line, body, the engine's answer, the call it must get, status, body of the answer (None: none)
TABLE: list[tuple[str, Any, Any, Any, int, Any]] = [
    (
        "GET /containers/json?all=1&limit=3&size=true&since=s&before=b&" + FILTERS,
        None,
        [],
        call("list_containers", all=True, limit=3, size=True, filters=LABEL, since="s", before="b"),
        200,
        [],
    ),
    (
        "GET /containers/c/top?ps_args=aux",
        None,
        ContainerTop(),
        call("container_top", "c", arguments="aux"),
        200,
        {"Processes": [], "Titles": []},
    ),
    ("GET /containers/c/changes", None, chunks, call("container_changes", "c"), 200, "tar"),
    ("POST /containers/c/resize?h=10&w=20", None, None, call("resize_container", "c", height=10, width=20), 200, None),
    ("POST /containers/c/resize?h=x&w=20", None, None, None, 400, {"message": 'invalid resize height "x": invalid syntax'}),
    ("POST /containers/c/stop?t=5&signal=INT", None, None, call("stop_container", "c", signal="INT", timeout_s=5), 204, None),
    ("POST /containers/c/stop?t=-1", None, None, call("stop_container", "c", signal="", timeout_s=-1), 204, None),
    ("POST /containers/c/stop?t=x", None, None, None, 400, {"message": 'strconv.Atoi: parsing "x": invalid syntax'}),
    ("POST /containers/c/restart", None, None, call("restart_container", "c", signal="", timeout_s=None), 204, None),
    ("POST /containers/c/kill", None, None, call("kill_container", "c", signal="SIGKILL"), 204, None),
    ("POST /containers/c/kill?signal=9", None, None, call("kill_container", "c", signal="9"), 204, None),
    ("POST /containers/c/update", {"Memory": 7, "RestartPolicy": {"Name": "always"}}, ContainerUpdated(), None, 200, {"Warnings": None}),
    ("POST /containers/c/rename?name=/d", None, None, call("rename_container", "c", name="d"), 204, None),
    ("POST /containers/c/pause", None, None, call("pause_container", "c"), 204, None),
    ("POST /containers/c/unpause", None, None, call("unpause_container", "c"), 204, None),
    ("POST /containers/c/start?checkpoint=x", None, None, None, 501, {"message": "checkpoints are not supported"}),
    ("DELETE /containers/c?v=1&force=1", None, None, call("remove_container", "c", volumes=True, force=True, link=False), 204, None),
    (
        "POST /containers/prune?" + FILTERS,
        None,
        ContainersPruned(),
        call("prune_containers", LABEL),
        200,
        {"ContainersDeleted": None, "SpaceReclaimed": 0},
    ),
    ("GET /containers/c/stats?stream=0&one-shot=1", None, samples, call("container_stats", "c", stream=False, one_shot=True), 200, ...),
    (
        "POST /containers/c/exec",
        {"Cmd": ["a"], "Tty": True},
        "e1",
        call("create_exec", "c", ExecCreate(cmd=["a"], tty=True)),
        201,
        {"Id": "e1"},
    ),
    ("POST /containers/c/exec", {"Cmd": []}, None, None, 400, {"message": "No exec command specified"}),
    ("POST /exec/e/resize?h=1&w=2", None, None, call("resize_exec", "e", height=1, width=2), 200, None),
    (
        "GET /images/json?all=1&shared-size=1",
        None,
        [],
        call("list_images", all=True, filters={}, shared_size=True, containers=True),
        200,
        [],
    ),
    (
        "GET /v1.40/images/json?filter=a*",
        None,
        [],
        call("list_images", all=False, filters={"reference": ("a*",)}, shared_size=False, containers=False),
        200,
        [],
    ),
    (
        "GET /v1.43/images/json",
        None,
        lambda: [ImageSummary(size=5)],
        call("list_images", all=False, filters={}, shared_size=False, containers=False),
        200,
        ...,
    ),
    ("GET /images/a/b:c/json", None, lambda: ImageInspect(id="i"), call("inspect_image", "a/b:c", platform=None), 200, ...),
    ("GET /images/a/json?platform=" + ARM, None, lambda: ImageInspect(id="i"), call("inspect_image", "a", platform=PLATFORM), 200, ...),
    ("GET /images/a/json?manifests=1&platform=" + ARM, None, None, None, 400, ...),
    ("GET /images/a/history?platform=x", None, None, None, 400, NO_PLATFORM),
    ("GET /images/a/get?platform={}", None, None, None, 400, {"message": "both OS and Architecture must be provided"}),
    ("DELETE /images/a?platforms=" + ARM, None, [], call("remove_image", "a", force=False, prune=True, platform=PLATFORM), 200, []),
    ("DELETE /images/a?platforms=a&platforms=b", None, None, None, 400, {"message": "multiple platforms are not supported"}),
    ("GET /images/search?term=x&limit=x", None, None, None, 400, ...),
    ("GET /images/a/history", None, [HistoryEntry()], call("image_history", "a", platform=None), 200, ...),
    (
        "POST /images/create?fromImage=a&tag=1&platform=linux/amd64",
        None,
        progress,
        call("pull_image", "a", tag="1", platform="linux/amd64", auth=CREDENTIALS),
        200,
        {"status": "done"},
    ),
    ("POST /images/create", None, None, None, 400, {"message": "invalid reference format"}),
    (
        "POST /images/localhost:5000/a/push?tag=1",
        None,
        progress,
        call("push_image", "localhost:5000/a", tag="1", platform=None, auth=CREDENTIALS),
        200,
        {"status": "done"},
    ),
    ("POST /images/a/tag?repo=r&tag=t", None, None, call("tag_image", "a", repo="r", tag="t"), 201, None),
    (
        "DELETE /images/a?force=1&noprune=1",
        None,
        [ImageDeleted(untagged="a")],
        call("remove_image", "a", force=True, prune=False, platform=None),
        200,
        [{"Untagged": "a"}],
    ),
    ("POST /images/prune?" + FILTERS, None, ImagesPruned(), call("prune_images", LABEL), 200, {"ImagesDeleted": None, "SpaceReclaimed": 0}),
    (
        "GET /images/search?term=x",
        None,
        [SearchResult(name="x")],
        call("search_images", "x", limit=25, filters={}, auth=CREDENTIALS),
        200,
        ...,
    ),
    ("GET /images/get?names=a&names=b", None, chunks, call("save_images", ["a", "b"], platform=None), 200, "tar"),
    ("GET /images/a/b/get", None, chunks, call("save_images", ["a/b"], platform=None), 200, "tar"),
    (
        "POST /commit?container=c&repo=r&tag=t&comment=m&author=me&pause=0&changes=CMD%20x&changes=USER%20y",
        {"User": "u"},
        "sha256:1",
        call(
            "commit_container",
            CommitRequest(container="c", repo="r", tag="t", comment="m", author="me", pause=False, changes=("CMD x", "USER y")),
            Config(user="u"),
        ),
        201,
        {"Id": "sha256:1"},
    ),
    ("POST /commit?container=c", "null", "sha256:1", call("commit_container", CommitRequest(container="c"), None), 201, {"Id": "sha256:1"}),
    ("GET /wherry/v1/images/a/b:1/files?layer=2", None, chunks, call("image_files", "a/b:1", layer=2), 200, "tar"),
    ("GET /wherry/v1/images/a/layers", None, lambda: LayersReport(id="i"), call("image_layers", "a"), 200, ...),
    ("GET /wherry/v1/images/a/waste", None, chunks, call("image_waste", "a"), 200, "tar"),
    ("GET /wherry/v1/images/diff?from=a&to=b", None, chunks, call("image_differences", "a", "b"), 200, "tar"),
    ("GET /wherry/v1/images/diff?from=a", None, None, None, 400, {"message": "two images are needed: `from` and `to`"}),
    ("GET /distribution/a/b/json", None, Distribution(), call("inspect_distribution", "a/b", auth=CREDENTIALS), 200, ...),
    (
        "POST /auth",
        {"username": "u", "password": "p"},
        Authenticated(status="Login Succeeded"),
        call("check_auth", CREDENTIALS),
        200,
        {"Status": "Login Succeeded"},
    ),
    (
        "POST /build/prune?all=1&keep-storage=5",
        None,
        BuildPruned(),
        call("prune_build_cache", CachePrune(all=True, reserved_space=5), {}),
        200,
        {"CachesDeleted": None, "SpaceReclaimed": 0},
    ),
    ("POST /build/cancel?id=b", None, None, call("cancel_build", "b"), 200, None),
    ("GET /networks", None, [], call("list_networks", {}), 200, []),
    ("GET /networks/", None, [], call("list_networks", {}), 200, []),
    ("GET /networks/n?verbose=1&scope=local", None, Network(name="n"), call("inspect_network", "n", verbose=True, scope="local"), 200, ...),
    (
        "POST /networks/create",
        {"Name": "n", "EnableIPv6": True},
        NetworkCreated(id="i"),
        call("create_network", NetworkCreate(name="n", enable_ipv6=True)),
        201,
        {"Id": "i", "Warning": ""},
    ),
    ("DELETE /networks/n", None, None, call("remove_network", "n"), 204, None),
    ("POST /networks/n/connect", {"Container": "c"}, None, call("connect_network", "n", NetworkConnect(container="c")), 200, None),
    (
        "POST /networks/n/disconnect",
        {"Container": "c", "Force": True},
        None,
        call("disconnect_network", "n", NetworkDisconnect(container="c", force=True)),
        200,
        None,
    ),
    ("POST /networks/prune", None, NetworksPruned(), call("prune_networks", {}), 200, {"NetworksDeleted": None}),
    ("GET /volumes", None, VolumeList(), call("list_volumes", {}), 200, {"Volumes": [], "Warnings": None}),
    ("GET /volumes/v", None, Volume(name="v"), call("inspect_volume", "v"), 200, ...),
    (
        "POST /volumes/create",
        {"Name": "v", "DriverOpts": {"a": "b"}},
        Volume(name="v"),
        call("create_volume", VolumeCreate(name="v", driver_opts={"a": "b"})),
        201,
        ...,
    ),
    ("POST /volumes/create", None, Volume(name="v"), call("create_volume", VolumeCreate()), 201, ...),
    ("DELETE /volumes/v?force=1", None, None, call("remove_volume", "v", force=True), 204, None),
    ("PUT /volumes/v", None, None, None, 503, ...),
    ("POST /volumes/prune", None, VolumesPruned(), call("prune_volumes", {}), 200, {"VolumesDeleted": [], "SpaceReclaimed": 0}),
    ("GET /system/df", None, DiskUsage(), call("disk_usage", frozenset()), 200, NO_USAGE),
    ("GET /system/df?type=image&type=volume", None, DiskUsage(), call("disk_usage", frozenset({"image", "volume"})), 200, NO_USAGE),
    ("GET /system/df?type=x", None, None, None, 400, {"message": "unknown object type: x"}),
    ("GET /events?since=5&until=4", None, None, None, 400, {"message": "`since` time (5) cannot be after `until` time (4)"}),
]


@pytest.mark.parametrize(("line", "body", "answer", "expected", "status", "reply"), TABLE, ids=[row[0] for row in TABLE])
def test_a_request_becomes_its_call(
    client: Raw, engine: Recorder, line: str, body: Any, answer: Any, expected: Any, status: int, reply: Any
) -> None:
    engine.answer = answer
    method, path = line.split(" ")
    raw = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    got, _, data = client.request(method, path, raw, X_Registry_Auth=AUTH).response()
    assert got == status
    if expected is not None:
        assert engine.calls == [expected]
    if reply is None:
        assert data == b""
    elif isinstance(reply, str):
        assert data.strip().decode() == reply
    elif reply is not ...:
        assert json.loads(data) == reply
    assert client.request("GET", "/_ping").response()[0] == 200


def test_an_old_client_is_told_the_builders_size(client: Raw, engine: Recorder) -> None:
    engine.answer = DiskUsage(build_cache=[BuildCacheRecord(id="a", size=7)])
    assert json.loads(client.request("GET", "/v1.41/system/df").response()[2])["BuilderSize"] == 7


def test_an_update_reads_resources_and_the_restart_policy(client: Raw, engine: Recorder) -> None:
    engine.answer = ContainerUpdated()
    client.request("POST", "/containers/c/update", b'{"NanoCpus":5,"RestartPolicy":{"Name":"always"}}').response()
    (_, (_, body), _), *_ = engine.calls
    assert isinstance(body, ContainerUpdate)
    assert (body.nano_cpus, body.restart_policy.name, body.memory) == (5, "always", 0)


def test_older_clients_read_the_virtual_size(client: Raw, engine: Recorder) -> None:
    engine.answer = lambda: [ImageSummary(size=5)]
    assert json.loads(client.request("GET", "/v1.43/images/json").response()[2])[0]["VirtualSize"] == 5
    assert "VirtualSize" not in json.loads(client.request("GET", "/v1.44/images/json").response()[2])[0]
    engine.answer = lambda: ImageInspect(size=5)
    assert json.loads(client.request("GET", "/v1.44/images/x/json").response()[2])["ContainerConfig"]["Env"] is None
    assert "ContainerConfig" not in json.loads(client.request("GET", "/v1.45/images/x/json").response()[2])


def test_older_clients_read_images_without_a_name_and_their_configuration_as_they_knew_them(client: Raw, engine: Recorder) -> None:
    engine.answer = lambda: [ImageSummary(), ImageSummary(repo_tags=["a:1"])]
    for version, nameless in (("1.42", (["<none>:<none>"], ["<none>@<none>"])), ("1.43", ([], []))):
        first, second = json.loads(client.request("GET", f"/v{version}/images/json").response()[2])
        assert (first["RepoTags"], first["RepoDigests"]) == nameless
        assert (second["RepoTags"], second["RepoDigests"]) == (["a:1"], [])
    engine.answer = lambda: ImageInspect(config=ImageConfig(cmd=["x"]))
    old, new = (json.loads(client.request("GET", f"/v{version}/images/x/json").response()[2])["Config"] for version in ("1.49", "1.50"))
    assert new == {
        "Cmd": ["x"],
        "Entrypoint": None,
        "Env": None,
        "Labels": None,
        "OnBuild": None,
        "User": "",
        "Volumes": None,
        "WorkingDir": "",
    }
    off = dict.fromkeys(("AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"), False)
    assert old == {**new, **off, "Domainname": "", "Hostname": "", "Image": ""}


def test_an_import_reads_its_source(client: Raw, engine: Recorder) -> None:
    engine.answer = progress
    client.request("POST", "/images/create?fromSrc=-&repo=r&tag=t&changes=CMD%20x&message=m", b"tar", Content_Type="text/plain").response()
    (name, (query, _), _), *_ = engine.calls
    assert (name, query) == ("import_image", ImportRequest(source="-", repo="r", tag="t", message="m", changes=("CMD x",)))


def test_what_is_wrong_with_an_archive_is_told_in_the_stream_as_docker_does(client: Raw, engine: Recorder) -> None:
    async def failing() -> AsyncIterator[dict[str, object]]:
        raise InvalidRequest("unexpected EOF")
        yield {}

    engine.answer = failing
    status, _, body = client.request("POST", "/images/load?quiet=1", b"tar", Content_Type="application/x-tar").response()
    assert (status, json.loads(body)) == (200, {"errorDetail": {"message": "unexpected EOF"}, "error": "unexpected EOF"})
    engine.answer = failing
    assert client.request("POST", "/images/create?fromImage=a", b"").response()[0] == 400
