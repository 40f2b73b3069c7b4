"""Registries that lie, through the real daemon: the cause is named, nothing is stored, little is remembered, and nobody waits for long."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from aiohttp import web
from tests.conftest import Daemon, make_daemon, running
from tests.images.conftest import FakeRegistry, Made, digest
from tests.images.test_pull import FAULTS as LIES
from tests.security.lying import lying_registry
from tests.security.watching import MEMORY_KB, Watch
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
Lie = Callable[[Made, FakeRegistry], None]
Answer = Callable[[web.Request], Any]
LONGEST_S = 10  # alone it takes less than 3: two attempts at a registry that may be silent for half a second
SECRET = "al:the-secret"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One that is impatient, and has pulled once: what is loaded for that is not growth."""
    with running(make_daemon("--registry-idle-timeout", "0.5", "--max-download-attempts", "2"), image=False) as daemon:
        with lying_registry() as honest:
            honest.add(Made({"warm": b"1" * 100_000}))
            daemon.run("pull", f"{honest.host}/x/y:1")
            daemon.run("rmi", f"{honest.host}/x/y:1")
        yield daemon


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with lying_registry() as fake:
        yield fake


def layer_of(made: Made) -> str:
    return str(made.document["layers"][0]["digest"])


def answering(part: Callable[[Made], str], answer: Callable[[Made, FakeRegistry], Answer]) -> Lie:
    def lie(made: Made, fake: FakeRegistry) -> None:
        fake.answers[part(made)] = answer(made, fake)

    return lie


def always(status: int, **headers: str) -> Callable[[Made, FakeRegistry], Answer]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return lambda made, fake: answer


def challenging(realm: str) -> Lie:
    """Every request is refused, whatever token it brings."""

    def lie(made: Made, fake: FakeRegistry) -> None:
        async def refuse(request: web.Request) -> web.StreamResponse:
            if "token" in request.path:
                return web.json_response({"token": "never good enough"})
            challenge = f'Bearer realm="{realm.format(host=fake.host)}",service="s",scope="repository:x/y:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        fake.answers["/"] = refuse

    return lie


def dripping(made: Made, fake: FakeRegistry) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(made.blobs[0]))})
        await response.prepare(request)
        for byte in made.blobs[0]:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return response

    return answer


def bomb(made: Made, fake: FakeRegistry) -> None:
    """A small blob that becomes 256 MiB of nothing."""
    made.blobs = [gzip.compress(bytes(256 << 20), 6, mtime=0)]
    made.document["layers"] = [made.described(made.blobs[0], made.document["layers"][0]["mediaType"])]
    fake.add(made)


def foreign(made: Made, fake: FakeRegistry) -> None:
    layer = made.document["layers"][0]
    layer["urls"] = [f"http://{fake.host}/elsewhere"]
    layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    fake.add(made)
    del fake.blobs[layer_of(made)]


def empties(size: int) -> bytes:
    """JSON that takes many times its length as objects."""
    return b"[" + b"[]," * (size // 3) + b"[]]"


def full_of_empties(made: Made, fake: FakeRegistry) -> None:
    raw = json.dumps(made.document).encode()[:-1] + b', "more": ' + empties(4_000_000) + b"}"
    fake.add_manifest("1", raw, made.document["mediaType"])


def config_of_empties(made: Made, fake: FakeRegistry) -> None:
    made.config = made.config[:-1] + b', "more": ' + empties(4_000_000) + b"}"
    made.document["config"] = made.described(made.config, made.document["config"]["mediaType"])
    fake.add(made)


def large_headers(made: Made, fake: FakeRegistry) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}", headers={f"X-{number}": "x" * 8000 for number in range(300)})

    return answer


def endless(start: bytes, piece: bytes, *, status: int = 200) -> Callable[[Made, FakeRegistry], Answer]:
    """As much as anybody reads, 64 MiB at most."""

    def make(made: Made, fake: FakeRegistry) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=status)
            await response.prepare(request)
            await response.write(start)
            for _ in range((64 << 20) // len(piece)):
                await response.write(piece)
            return response

        return answer

    return make


def endless_token(made: Made, fake: FakeRegistry) -> None:
    challenging("http://{host}/token")(made, fake)
    fake.answers = {"/token": endless(b'{"token":"', b"x" * 65536)(made, fake), **fake.answers}


MORE: dict[str, Lie] = {
    "a manifest of empty lists": full_of_empties,
    "a config of empty lists": config_of_empties,
    "2 MB of headers": answering(lambda made: "/manifests/", large_headers),
    "a refusal without end": answering(lambda made: "/manifests/", endless(b'{"errors":[', b"[]," * 20000, status=400)),
    "a token without end": endless_token,
    "a silent manifest": answering(lambda made: "/manifests/", lambda made, fake: lambda request: asyncio.sleep(60)),
    "a layer in drops": answering(layer_of, dripping),
    "always 500": answering(layer_of, always(500)),
    "429 for an hour": answering(lambda made: "/manifests/", always(429, Retry_After="3600")),
    "endless challenges": challenging("http://{host}/token"),
    "a file as realm": challenging("file:///etc/passwd"),
    "a realm with a password": challenging("http://al:pw@{host}/token"),
    "redirect to a file": answering(layer_of, always(302, Location="file:///etc/passwd")),
    "redirect to nowhere": answering(layer_of, always(307)),
    "a layer that is elsewhere": foreign,
    "a bomb": bomb,
}
WORDS = {
    "a manifest of empty lists": "too many values",
    "a config of empty lists": "too many values",
    "2 MB of headers": "headers",
    "a refusal without end": "400 Bad Request",
    "a token without end": "larger than",
    "wrong layer": "filesystem layer verification failed for digest sha256:",
    "truncated layer": "expected",
    "too long layer": "expected",
    "endless layer": "more than the expected",
    "wrong config": "error pulling image configuration: image config verification failed for digest sha256:",
    "bad diff_id": "layer has diff_id sha256:",
    "null rootfs": "no RootFS key",
    "more diff_ids than layers": "layers from manifest don't match image configuration",
    "null layers": "layers",
    "layers and manifests": "manifests",
    "negative size": "size",
    "wrong size": "bytes",
    "digest with a path": "digest",
    "huge manifest": "larger than",
    "no JSON": "JSON",
    "deep JSON": "JSON",
    "a key twice": "twice",
    "five thousand layers": "more than 500 entries",
    "stalled layer": "i/o timeout",
    "redirect loop": "stopped after 10 redirects",
    "a silent manifest": "i/o timeout",
    "a layer in drops": "i/o timeout",
    "always 500": "500 Internal Server Error",
    "429 for an hour": "toomanyrequests",
    "endless challenges": "unauthorized",
    "a file as realm": "invalid token realm",
    "a realm with a password": "invalid token realm",
    "redirect to a file": "refused",
    "redirect to nowhere": "refused",
    "a layer that is elsewhere": "unknown blob",
    "a bomb": "failed to register layer",
}


@pytest.mark.parametrize("name", [*LIES, *MORE])
def test_a_lie_is_named_and_leaves_nothing(daemon: Daemon, fake: FakeRegistry, name: str) -> None:
    made = Made({"a": b"1" * 50_000})
    fake.add(made)
    {**LIES, **MORE}[name](made, fake)
    watch = Watch(daemon)
    done = daemon.run("pull", f"{fake.host}/x/y:1", check=False)
    watch.end("pull", name, done.err)
    assert done.code == 1
    assert WORDS[name] in done.err
    assert "Traceback" not in daemon.log
    assert watch.seconds < LONGEST_S
    assert watch.grown_kb < MEMORY_KB
    assert ask(daemon, "GET", "/images/json")[1] == []
    may_stay = "/partial/" if name in RESUMABLE else None
    until(lambda: not [path for path in watch.left() if not (may_stay and may_stay in path)])


def paged(tags: Callable[[int], list[str]], following: Callable[[FakeRegistry, int], str]) -> Lie:
    """A list of tags in parts, each with a Link to the next."""

    @cache
    def page(number: int) -> bytes:
        return json.dumps({"name": "x/y", "tags": tags(number)}).encode()

    def lie(made: Made, fake: FakeRegistry) -> None:
        for number in range(3):  # made here: the daemon waits half a second
            page(number)

        async def answer(request: web.Request) -> web.StreamResponse:
            number = int(request.query.get("last", "0"))
            link = following(fake, number + 1)
            return web.Response(body=page(number), content_type="application/json", headers={"Link": f'<{link}>; rel="next"'})

        fake.answers["/tags/list"] = answer

    return lie


LISTS: dict[str, tuple[Lie, str]] = {
    "tags without end": (paged(lambda number: [f"t{number}"], lambda fake, number: f"/v2/x/y/tags/list?last={number}"), "does not end"),
    "pages of 50,000 tags": (
        paged(lambda number: [f"{number}-{tag}" for tag in range(50_000)], lambda fake, number: f"/v2/x/y/tags/list?last={number}"),
        "more than 100000 tags",
    ),
    "262,144 tags at once": (paged(lambda number: [str(tag) for tag in range(1 << 18)], lambda fake, number: ""), "too many values"),
    "the next tags in a file": (paged(lambda number: ["1"], lambda fake, number: "file:///etc/passwd"), "refused"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_tags_ends_and_stays_where_it_is(daemon: Daemon, fake: FakeRegistry, name: str) -> None:
    made = Made({"a": b"1"})
    fake.add(made)
    lie, words = LISTS[name]
    lie(made, fake)
    watch = Watch(daemon)
    done = daemon.run("pull", "-a", f"{fake.host}/x/y", check=False)
    watch.end("pull -a", name, done.err)
    assert (done.code, words in done.err) == (1, True)
    assert watch.grown_kb < MEMORY_KB
    assert not watch.left()


RESUMABLE = {"stalled layer", "a layer in drops", "always 500", "truncated layer"}  # what came may be what is wanted: the next pull goes on


def test_what_is_wrong_by_digest_is_another_manifest(daemon: Daemon, fake: FakeRegistry) -> None:
    made, other = Made({"a": b"1"}), Made({"a": b"2"})
    fake.add(made)
    wanted = digest(json.dumps(other.document).encode())
    fake.manifests[wanted] = fake.manifests["1"]
    done = daemon.run("pull", f"{fake.host}/x/y@{wanted}", check=False)
    assert (done.code, f"manifest verification failed for digest {wanted}" in done.err) == (1, True)


def test_no_secret_is_told_to_anybody_but_its_registry(daemon: Daemon, fake: FakeRegistry) -> None:
    """By redirects, realms and the urls of layers: the other registry sees requests, and nobody's name in them."""
    made = Made({"a": b"1" * 1000})
    fake.add(made)
    basic = base64.b64encode(SECRET.encode()).decode()
    (daemon.root / "config" / "config.json").write_text(json.dumps({"auths": {fake.host: {"auth": basic}}}))
    with lying_registry() as other:
        other.add(made)

        async def token(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "theirs"})

        other.answers["/token"] = token

        async def away(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(f"http://{other.host}{request.path}")

        fake.answers[layer_of(made)] = away
        daemon.run("pull", f"{fake.host}/x/y:1")
        daemon.run("rmi", f"{fake.host}/x/y:1")

        async def ask_elsewhere(request: web.Request) -> web.StreamResponse:
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{other.host}/token",service="s"'})

        fake.answers["/manifests/"] = ask_elsewhere
        assert daemon.run("pull", f"{fake.host}/x/y:1", check=False).code == 1
        assert other.count("/blobs/") == 1
        assert other.count("/token") >= 1
        told = json.dumps(other.log)
        assert "Authorization" not in told
        assert "al" not in [value for _, path, _ in other.log for value in path.split("=")]
    assert SECRET.partition(":")[2] not in daemon.log
    assert basic not in daemon.log
