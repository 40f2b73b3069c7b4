"""Pull from a registry in this process: what Docker streams, and what a lying registry gets for it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from aiohttp import web

from wherry.errors import EngineError, Forbidden, Internal, NotFound, TooManyRequests, Unauthorized
from wherry.registry.transport import Patience
from wherry.spec.digest import Digest, sha256
from wherry.spec.mirrors import parse_mirror

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def test_a_pull_streams_what_docker_streams_and_a_second_one_finds_everything(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 5000}, {"b": b"2"})
        fake.add(made)
        name = f"{fake.host}/x/b2:1"
        records = await lab.pull(name)
        texts = [record["status"] for record in records]
        short = [layer["digest"][7:19] for layer in made.document["layers"]]
        assert records[0] == {"status": "Pulling from x/b2", "id": "1"}
        assert [record for record in records if record["status"] == "Pulling fs layer"] == [
            {"status": "Pulling fs layer", "progressDetail": {}, "id": ident} for ident in short
        ]
        for ident in short:
            own = [record["status"] for record in records if record.get("id") == ident and "Waiting" not in record["status"]]
            assert list(dict.fromkeys(own)) == [
                "Pulling fs layer",
                "Downloading",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete",
            ]
        assert texts[-2].startswith("Digest: sha256:")
        assert texts[-1] == f"Status: Downloaded newer image for {name}"
        image = lab.images.resolve(name)
        assert image.id == made.id
        assert image.repo_tags == (name,)
        assert image.repo_digests == (f"{fake.host}/x/b2@{texts[-2][8:]}",)
        asked = len(fake.log)
        again = await lab.pull(name)
        assert [record["status"] for record in again] == ["Pulling from x/b2", texts[-2], f"Status: Image is up to date for {name}"]
        assert fake.count("/blobs/") == 3
        assert [(method, path) for method, path, _ in fake.log[asked:]] == [("HEAD", "/v2/x/b2/manifests/1")]
        newer = make_image({"a": b"3"})
        fake.add(newer)
        assert [record["status"] for record in await lab.pull(name)][-1] == f"Status: Downloaded newer image for {name}"
        assert lab.images.resolve(name).id == newer.id

    experiment(body)


def test_layers_that_are_here_already_are_not_asked_for(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base, more = make_image({"a": b"1"}), make_image({"a": b"1"}, {"b": b"2"})
        fake.add(base, "base")
        fake.add(more, "more")
        await lab.pull(f"{fake.host}/x/y:base")
        fake.log.clear()
        records = await lab.pull(f"{fake.host}/x/y:more")
        assert {"status": "Already exists", "progressDetail": {}, "id": base.document["layers"][0]["digest"][7:19]} in records
        assert fake.count("/blobs/") == 2
        assert fake.count(base.document["layers"][0]["digest"]) == 0

    experiment(body)


def test_what_is_left_of_a_download_goes_with_the_pull_that_finds_its_layer_here(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base, more = make_image({"a": b"1" * 5000}), make_image({"a": b"1" * 5000}, {"b": b"2"})
        lab.loaded(base, "base:1")
        for tag, made in (("more", more), ("whole", base)):
            fake.add(made, tag)
            layer = made.document["layers"][0]
            with lab.images.partials.open(layer["digest"], layer["size"], source=fake.host) as broken_off:
                broken_off.write(made.blobs[0][:10])
            await lab.pull(f"{fake.host}/x/y:{tag}")
            assert lab.images.partials.sizes() == {}
        assert fake.count(layer["digest"]) == 0

    experiment(body)


def test_twenty_pulls_at_once_fetch_each_blob_once(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 300_000}, {"b": b"2"}, {"c": b"3"})
        fake.add(made)
        results = await asyncio.gather(*(lab.pull(f"{fake.host}/x/y:1") for _ in range(20)))
        assert all(records[-1]["status"].startswith("Status: ") for records in results)
        for layer in made.document["layers"]:
            assert fake.count(layer["digest"]) == 1

    experiment(body)


def test_a_client_that_leaves_does_not_stop_the_others(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        fake.add(made)
        reached, go = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            reached.set()
            await go.wait()
            return web.Response(body=made.blobs[0])

        fake.answers[made.document["layers"][0]["digest"]] = slow
        first = asyncio.ensure_future(lab.pull(f"{fake.host}/x/y:1"))
        await reached.wait()
        told: list[str] = []

        async def pull() -> None:
            async for record in lab.images.registries.pull(f"{fake.host}/x/y:1"):
                told.append(record["status"])

        second = asyncio.ensure_future(pull())
        await lab.until(lambda: "Pulling fs layer" in told)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        await second
        assert told[-1].startswith("Status: Downloaded")
        assert fake.count(made.document["layers"][0]["digest"]) == 1

    experiment(body)


def test_when_the_last_client_leaves_nothing_stays(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        fake.add(made)
        reached = asyncio.Event()

        async def stuck(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(made.blobs[0]))})
            await response.prepare(request)
            await response.write(made.blobs[0][:10])
            reached.set()
            await asyncio.sleep(3600)
            return response

        fake.answers[made.document["layers"][0]["digest"]] = stuck
        pulling = asyncio.ensure_future(lab.pull(f"{fake.host}/x/y:1"))
        await reached.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        await lab.until(lab.is_empty)

    experiment(body)


def test_an_index_gives_the_image_of_the_platform_asked_for(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = {arch: make_image({"arch": arch.encode()}) for arch in ("amd64", "arm64", "s390x")}
        entries = []
        for arch, image in made.items():
            raw = fake.add(image, arch)
            described = image.described(raw, image.document["mediaType"])
            entries.append({**described, "platform": {"os": "linux", "architecture": arch}})
        kind = "application/vnd.oci.image.index.v1+json"
        fake.add_manifest("all", json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode(), kind)
        await lab.pull(f"{fake.host}/x/y:all", platform="linux/arm64")
        assert lab.images.resolve(f"{fake.host}/x/y:all").id == made["arm64"].id
        await lab.pull(f"{fake.host}/x/y:all", platform="amd64")
        assert lab.images.resolve(f"{fake.host}/x/y:all").id == made["amd64"].id
        with pytest.raises(NotFound, match="no matching manifest for linux/386 in the manifest list entries"):
            await lab.pull(f"{fake.host}/x/y:all", platform="linux/386")

    experiment(body)


def test_what_the_registry_says_is_told_in_the_words_of_docker(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(NotFound) as missing:
            await lab.pull(f"{fake.host}/x/y:nope")
        assert str(missing.value) == f"manifest for {fake.host}/x/y:nope not found: manifest unknown: manifest unknown"

        async def denied(request: web.Request) -> web.StreamResponse:
            error = {"code": "DENIED", "message": "requested access to the resource is denied"}
            return web.json_response({"errors": [error]}, status=403)

        fake.answers["/manifests/"] = denied
        with pytest.raises(NotFound) as refused:
            await lab.pull(f"{fake.host}/x/y:1")
        assert str(refused.value) == (
            f"pull access denied for {fake.host}/x/y, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )

        async def elsewhere(request: web.Request) -> web.StreamResponse:
            challenge = f'Bearer realm="http://{fake.host}/token",service="s",scope="repository:x/y:pull",error="insufficient_scope"'
            error = {"code": "UNAUTHORIZED", "message": "authentication required"}
            return web.json_response({"errors": [error]}, status=401, headers={"WWW-Authenticate": challenge})

        async def token(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "for anything else"})

        fake.answers |= {"/manifests/": elsewhere, "/token": token}
        with pytest.raises(NotFound) as not_included:  # as Docker Hub says that there is no such repository, or none for this account
            await lab.pull(f"{fake.host}/x/y:1")
        assert str(not_included.value) == str(refused.value)
        with pytest.raises(Forbidden, match=r"^denied: requested access to the resource is denied$"):
            await lab.images.registries.distribution(f"{fake.host}/x/y:1", None)
        for status, code, kind in ((401, "UNAUTHORIZED", Unauthorized), (429, "TOOMANYREQUESTS", TooManyRequests)):

            async def other(request: web.Request, status: int = status, code: str = code) -> web.StreamResponse:
                error = {"code": code, "message": "no"}
                return web.json_response({"errors": [error]}, status=status, headers={"Retry-After": "3600"})

            fake.answers["/manifests/"] = other
            with pytest.raises(kind, match=rf"^{code.lower()}: no$"):
                await lab.pull(f"{fake.host}/x/y:1")
        with pytest.raises(Internal) as unreachable:
            await lab.pull("127.0.0.1:1/x/y:1")
        assert str(unreachable.value) == 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'

    experiment(body)


def _wrong_layer(made: Any, fake: Any) -> None:
    fake.blobs[made.document["layers"][0]["digest"]] = made.blobs[0][:-1] + b"x"


def _truncated(made: Any, fake: Any) -> None:
    fake.blobs[made.document["layers"][0]["digest"]] = made.blobs[0][:-1]


def _too_long(made: Any, fake: Any) -> None:
    fake.blobs[made.document["layers"][0]["digest"]] = made.blobs[0] + b"x"


def _wrong_config(made: Any, fake: Any) -> None:
    fake.blobs[made.id] = made.config[:-1] + b" "


def _endless(made: Any, fake: Any) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    fake.answers[made.document["layers"][0]["digest"]] = answer


def _stalled(made: Any, fake: Any) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(made.blobs[0]))})
        await response.prepare(request)
        await response.write(made.blobs[0][:1])
        await asyncio.sleep(30)
        return response

    fake.answers[made.document["layers"][0]["digest"]] = answer


def _redirect_loop(made: Any, fake: Any) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(str(request.url))

    fake.answers[made.document["layers"][0]["digest"]] = answer


def _changed(**fields: Any) -> Callable[[Any, Any], None]:
    def change(made: Any, fake: Any) -> None:
        made.document.update(fields)
        fake.add(made)

    return change


def _config_changed(**fields: Any) -> Callable[[Any, Any], None]:
    def change(made: Any, fake: Any) -> None:
        made.config = json.dumps({**json.loads(made.config), **fields}).encode()
        made.document["config"] = made.described(made.config, made.document["config"]["mediaType"])
        fake.add(made)

    return change


def _layer_changed(**fields: Any) -> Callable[[Any, Any], None]:
    def change(made: Any, fake: Any) -> None:
        made.document["layers"][0].update(fields)
        fake.add(made)

    return change


def _raw_manifest(raw: bytes) -> Callable[[Any, Any], None]:
    def change(made: Any, fake: Any) -> None:
        fake.add_manifest("1", raw, made.document["mediaType"])

    return change


def _many_layers(made: Any, fake: Any) -> None:
    made.document["layers"] = made.document["layers"] * 5000
    fake.add(made)


HEX = "0" * 64
FAULTS: dict[str, Callable[[Any, Any], None]] = {
    "wrong layer": _wrong_layer,
    "truncated layer": _truncated,
    "too long layer": _too_long,
    "endless layer": _endless,
    "wrong config": _wrong_config,
    "bad diff_id": _config_changed(rootfs={"type": "layers", "diff_ids": ["sha256:" + HEX]}),
    "null rootfs": _config_changed(rootfs=None),
    "more diff_ids than layers": _config_changed(rootfs={"type": "layers", "diff_ids": ["sha256:" + HEX] * 2}),
    "null layers": _changed(layers=None),
    "layers and manifests": _changed(manifests=[]),
    "negative size": _layer_changed(size=-1),
    "wrong size": _layer_changed(size=7),
    "digest with a path": _layer_changed(digest="sha256:../../../../etc/passwd"),
    "huge manifest": _raw_manifest(b'{"schemaVersion":2,"x":"' + b"a" * (5 << 20) + b'"}'),
    "no JSON": _raw_manifest(b"<html>"),
    "deep JSON": _raw_manifest(b"[" * 100_000 + b"]" * 100_000),
    "a key twice": _raw_manifest(b'{"schemaVersion":2,"schemaVersion":2}'),
    "five thousand layers": _many_layers,
    "stalled layer": _stalled,
    "redirect loop": _redirect_loop,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lying_registry_gets_an_error_and_leaves_nothing(fault: str, experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 50_000})
        fake.add(made)
        FAULTS[fault](made, fake)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(EngineError) as caught:
            await lab.pull(f"{fake.host}/x/y:1")
        assert str(caught.value)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000
        assert not lab.images.list(every=True)
        assert not lab.snapshotter.items()
        assert not list((lab.root / "staging").iterdir())

    experiment(body, Patience(connect_s=2, idle_s=0.5, document_s=3, retries=1, backoff_s=0.01, longest_pause_s=0.1))


def test_a_layer_that_is_a_bomb_is_refused_without_memory(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        made.blobs = [gzip.compress(bytes(100 << 20), 9, mtime=0)]
        made.document["layers"] = [made.described(made.blobs[0], made.document["layers"][0]["mediaType"])]
        fake.add(made)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(Internal, match="failed to register layer"):
            await lab.pull(f"{fake.host}/x/y:1")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
        assert not lab.snapshotter.items()

    experiment(body)


def test_a_broken_download_is_resumed_where_it_broke(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": bytes(range(256)) * 20})
        fake.add(made)
        blob = made.blobs[0]
        ranges: list[str | None] = []

        async def flaky(request: web.Request) -> web.StreamResponse:
            ranges.append(request.headers.get("Range"))
            if len(ranges) == 1:
                response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
                await response.prepare(request)
                await response.write(blob[:100])
                assert request.transport is not None
                request.transport.close()
                return response
            if len(ranges) == 2:
                return web.Response(status=503)
            headers = {"Content-Range": f"bytes 100-{len(blob) - 1}/{len(blob)}"}
            return web.Response(status=206, body=blob[100:], headers=headers)

        fake.answers[made.document["layers"][0]["digest"]] = flaky
        await lab.pull(f"{fake.host}/x/y:1")
        assert ranges == [None, "bytes=100-", "bytes=100-"]

    experiment(body)


@pytest.mark.slow
def test_a_pause_that_a_registry_asks_for_is_told_by_the_second_in_pull_and_push(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 5000})
        fake.add(made)
        layer = made.document["layers"][0]["digest"]
        lab.registry.transport.patience = Patience()
        asked: list[str] = []

        async def busy(request: web.Request) -> web.StreamResponse:
            asked.append(request.method)
            if asked.count(request.method) == 1 and request.method != "HEAD":
                return web.Response(status=503, headers={"Retry-After": "1"})
            if request.method == "GET":
                return web.Response(body=made.blobs[0])
            status = {"HEAD": 404, "PUT": 201}.get(request.method, 202)
            return web.Response(status=status, headers={"Location": "/v2/x/z/blobs/uploads/1"})

        async def manifest(request: web.Request) -> web.StreamResponse:
            return web.Response(status=201)

        fake.answers[layer] = busy
        records = await lab.pull(f"{fake.host}/x/y:1")
        short = layer[7:19]
        assert {"status": "Retrying in 1 second", "progressDetail": {}, "id": short} in records
        lab.images.tag(f"{fake.host}/x/y:1", f"{fake.host}/x/z:1")
        fake.answers |= {"/blobs/uploads/": busy, "/manifests/": manifest, "/x/z/blobs/": busy}
        pushed = [record async for record in lab.images.registries.push(f"{fake.host}/x/z:1")]
        diff_id = lab.images.resolve(f"{fake.host}/x/z:1").diff_ids[0]
        assert {"status": "Retrying in 1 second", "progressDetail": {}, "id": diff_id.hex[:12]} in pushed

    experiment(body)


def test_the_urls_of_a_layer_are_not_followed(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        made.document["layers"][0]["urls"] = [f"http://{fake.host}/elsewhere"]
        fake.add(made)
        await lab.pull(f"{fake.host}/x/y:1")
        assert fake.count("elsewhere") == 0

    experiment(body)


def _cut_after(blob: bytes, count: int, ranges: list[str | None]) -> Callable[[web.Request], Any]:
    """Answers that break off ``count`` bytes after where they begin, if they are asked for the blob from its first byte."""

    async def answer(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        ranges.append(wanted)
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}
            return web.Response(status=206, body=blob[start:], headers=headers)
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        await response.write(blob[:count])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def test_a_pull_goes_on_where_an_earlier_one_was_broken_off(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": bytes(range(256)) * 20})
        fake.add(made)
        ranges: list[str | None] = []
        fake.answers[made.document["layers"][0]["digest"]] = _cut_after(made.blobs[0], 100, ranges)
        with pytest.raises(Internal, match="unexpected EOF"):
            await lab.pull(f"{fake.host}/x/y:1")
        assert not lab.images.list(every=True)
        await lab.pull(f"{fake.host}/x/y:1")
        assert ranges == [None, "bytes=100-"]
        assert not lab.images.partials.sizes()

    experiment(body, Patience(connect_s=2, idle_s=1, document_s=3, retries=0, backoff_s=0.01, longest_pause_s=0.1))


def test_a_damaged_beginning_is_fetched_again(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": bytes(range(256)) * 20})
        fake.add(made)
        layer = made.document["layers"][0]["digest"]
        with lab.images.partials.open(Digest(layer), len(made.blobs[0]), source=fake.host) as partial:
            partial.write(b"z" * 100)
        await lab.pull(f"{fake.host}/x/y:1")
        assert lab.content.has(Digest(layer)) is not lab.snapshotter.keeps_tars
        saved = await lab.save(f"{fake.host}/x/y:1")
        assert made.tars[0] in saved
        assert not list((lab.root / "partial").iterdir())

    experiment(body)


def _rest(body: bytes, content_range: str = "") -> web.Response:
    return web.Response(status=206, body=body, headers={"Content-Range": content_range} if content_range else {})


LIES: dict[str, Callable[[bytes], web.Response]] = {
    "all of it": lambda blob: web.Response(body=blob),
    "other bytes from the first on": lambda blob: web.Response(body=b"z" * len(blob)),
    "other bytes from there on": lambda blob: _rest(b"z" * (len(blob) - 100), f"bytes 100-{len(blob) - 1}/{len(blob)}"),
    "another beginning": lambda blob: _rest(blob, f"bytes 0-{len(blob) - 1}/{len(blob)}"),
    "another size": lambda blob: _rest(blob[100:], f"bytes 100-{len(blob)}/{len(blob) + 1}"),
    "no range": lambda blob: _rest(blob[100:]),
    "no numbers": lambda blob: _rest(blob[100:], "bytes x-y/z"),
    "more than there is": lambda blob: _rest(blob[100:] + b"more", f"bytes 100-{len(blob) - 1}/{len(blob)}"),
    "compressed once more": lambda blob: web.Response(body=gzip.compress(blob), headers={"Content-Encoding": "gzip"}),
    "several ranges": lambda blob: web.Response(status=206, body=b"--x" + blob[100:], content_type="multipart/byteranges"),
    "nothing": lambda blob: web.Response(status=204),
    "no such range": lambda blob: web.Response(status=416),
    "no such blob": lambda blob: web.Response(status=404),
}


@pytest.mark.parametrize("lie", LIES)
def test_whatever_is_told_of_the_rest_of_a_blob_the_next_pull_has_it(lie: str, experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": bytes(range(256)) * 20})
        fake.add(made)
        blob, layer = made.blobs[0], made.document["layers"][0]["digest"]
        with lab.images.partials.open(Digest(layer), len(blob), source=fake.host) as partial:
            partial.write(blob[:100])
        ranges: list[str | None] = []

        async def answer(request: web.Request) -> web.Response:
            ranges.append(request.headers.get("Range"))
            return web.Response(body=blob) if ranges[-1] is None else LIES[lie](blob)

        fake.answers[layer] = answer
        with contextlib.suppress(EngineError):
            await lab.pull(f"{fake.host}/x/y:1")
        if not lab.images.list(every=True):
            assert not lab.snapshotter.items()
            await lab.pull(f"{fake.host}/x/y:1")
        assert ranges[0] == "bytes=100-"
        assert made.tars[0] in await lab.save(f"{fake.host}/x/y:1")
        assert not lab.images.partials.sizes()

    experiment(body)


def test_pulls_of_one_layer_on_two_parents_share_its_download_or_repeat_it(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        fake.add(make_image({"a": b"1"}, {"same": b"s" * 3000}, {"same": b"s" * 3000}), tag="one")
        fake.add(make_image({"b": b"2"}, {"same": b"s" * 3000}), tag="two")
        await asyncio.gather(*(lab.pull(f"{fake.host}/x/y:{name}") for name in ("one", "two", "one")))
        assert len(lab.images.resolve(f"{fake.host}/x/y:one").diff_ids) == 3
        assert len(lab.snapshotter.items()) == 5
        assert not list((lab.root / "partial").iterdir())

    experiment(body)


def test_a_pull_by_digest_says_so_and_a_repository_that_is_not_there_is_named(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        wanted = sha256(fake.add(make_image({"a": b"1"})))
        for name in (f"{fake.host}/x/y@{wanted}", f"{fake.host}/x/y:1@{wanted}"):
            records = await lab.pull(name)
            assert records[0] == {"status": "Pulling from x/y", "id": name}
            assert records[-1]["status"].endswith(f" for {name}")
        assert lab.images.resolve(f"{fake.host}/x/y@{wanted}").repo_tags == ()

        async def unknown(request: web.Request) -> web.StreamResponse:
            error = {"code": "NAME_UNKNOWN", "message": "repository name not known to registry"}
            return web.json_response({"errors": [error]}, status=404)

        fake.answers["/tags/list"] = unknown
        with pytest.raises(NotFound) as caught:
            await lab.pull(f"{fake.host}/x/y", all_tags=True)
        assert str(caught.value) == f"repository {fake.host}/x/y not found: name unknown: repository name not known to registry"

    experiment(body)


def test_what_a_mirror_cannot_give_comes_from_the_registry(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 5000})
        fake.add(made)
        layer = made.document["layers"][0]["digest"]

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.host.startswith("localhost"):
                assert "Authorization" not in request.headers
                raise web.HTTPNotFound
            return web.Response(body=made.blobs[0])

        fake.answers[layer] = answer
        mirror = parse_mirror(f"{fake.host}={fake.host.replace('127.0.0.1', 'http://localhost')}")
        lab.registry.mirrors = (mirror,)
        await lab.pull(f"{fake.host}/x/y:1")
        assert fake.count(layer) == 2
        assert lab.images.resolve(f"{fake.host}/x/y:1").id == made.id

    experiment(body)


def test_all_tags_of_a_mirror_are_pulled(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 5000})
        fake.add(made)

        async def tags(request: web.Request) -> web.StreamResponse:
            if not request.host.startswith("localhost"):
                raise web.HTTPNotFound
            return web.json_response({"name": "x/y", "tags": ["1"]})

        fake.answers["list"] = tags
        lab.registry.mirrors = (parse_mirror(f"{fake.host}={fake.host.replace('127.0.0.1', 'http://localhost')}"),)
        await lab.pull(f"{fake.host}/x/y", all_tags=True)
        assert lab.images.resolve(f"{fake.host}/x/y:1").id == made.id

    experiment(body)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("application/vnd.oci.image.layer.v1.tar", bytes),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress),
        ("application/vnd.oci.image.layer.v1.tar+zstd", _zstd),
        ("application/vnd.docker.image.rootfs.diff.tar", bytes),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", gzip.compress),
    ],
)
def test_layers_of_every_kind_are_pulled_and_saved_the_same(
    kind: str, packed: Callable[[bytes], bytes], experiment: Experiment, make_image: Any
) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 300_000}, {"b": b"2"})
        made.blobs = [packed(tar) for tar in made.tars]
        made.document["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
        made.document["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
        made.document["layers"] = [made.described(blob, kind) for blob in made.blobs]
        fake.add(made)
        await lab.pull(f"{fake.host}/x/y:1")
        assert lab.images.resolve(f"{fake.host}/x/y:1").id == made.id
        saved = await lab.save(f"{fake.host}/x/y:1")
        assert all(tar in saved for tar in made.tars)

    experiment(body)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/arm64", ("arm64", "v8")),
        ("linux/arm64/v8", ("arm64", "v8")),
        ("linux/arm/v7", ("arm", "v7")),
        ("linux/arm/v6", ("arm", "v6")),
        ("linux/arm", ("arm", "v7")),
        ("linux/amd64", ("amd64", "")),
    ],
)
def test_the_variant_of_a_platform_is_chosen(wanted: str, chosen: tuple[str, str], experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        entries, made = [], {}
        for pair in (("arm", "v6"), ("arm", "v7"), ("arm64", "v8"), ("amd64", "")):
            made[pair] = make_image({"machine": "".join(pair).encode()})
            described = made[pair].described(fake.add(made[pair], "-".join(pair)), made[pair].document["mediaType"])
            platform = {"os": "linux", "architecture": pair[0], **({"variant": pair[1]} if pair[1] else {})}
            entries.append({**described, "platform": platform})
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        fake.add_manifest("all", json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode(), kind)
        await lab.pull(f"{fake.host}/x/y:all", platform=wanted)
        assert lab.images.resolve(f"{fake.host}/x/y:all").id == made[chosen].id

    experiment(body)
