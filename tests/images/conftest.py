"""A whole image room on a temporary store, a registry that lies on demand, and Debian's real one."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.system.registry import registry

from wherry.engine.workers import Workers
from wherry.images.catalog import Image
from wherry.images.partials import Partials
from wherry.images.service import Images
from wherry.registry.client import Client
from wherry.registry.transport import Patience
from wherry.spec.digest import Digest, chain_ids, sha256
from wherry.store.content import Content
from wherry.store.erofs import Erofs, erofs_works
from wherry.store.overlay import Overlay
from wherry.store.records import Records
from wherry.store.snapshot import Snapshotter

IMPATIENT = Patience(connect_s=2, idle_s=1, document_s=3, retries=3, backoff_s=0.01, longest_pause_s=0.1)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            archive.addfile(info)
    return out.getvalue()


class Made:
    """An image as bytes: config, layers (tars), and a Docker manifest with gzipped layers."""

    def __init__(self, *layers: dict[str, bytes], labels: dict[str, str] | None = None, created: str = "2026-01-02T03:04:05Z") -> None:
        self.tars = [tar(files) for files in layers]
        self.blobs = [gzip.compress(data, 1, mtime=0) for data in self.tars]
        self.config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": created,
                "config": {"Cmd": ["sh"], "Labels": labels or {}},
                "history": [{"created": created, "created_by": f"step {number}"} for number in range(len(layers))],
                "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in self.tars]},
            }
        ).encode()
        self.document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self.described(self.config, "application/vnd.docker.container.image.v1+json"),
            "layers": [self.described(blob, "application/vnd.docker.image.rootfs.diff.tar.gzip") for blob in self.blobs],
        }

    @staticmethod
    def described(data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "size": len(data), "digest": digest(data)}

    @property
    def id(self) -> str:
        return digest(self.config)

    def docker_archive(self, *tags: str, **changes: bytes) -> bytes:
        files = {f"{number}/layer.tar": data for number, data in enumerate(self.tars)}
        item = {"Config": "config.json", "RepoTags": list(tags) or None, "Layers": list(files)}
        return tar({**files, "config.json": self.config, "manifest.json": json.dumps([item]).encode(), **changes})


class FakeRegistry:
    """Serves one repository; ``answer`` (method, path) -> a handler for what is to go wrong. ``log``: every request with its headers."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.answers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        self.host = ""

    def add(self, made: Made, tag: str = "1") -> bytes:
        raw = json.dumps(made.document).encode()
        self.add_manifest(tag, raw, made.document["mediaType"])
        for blob in [made.config, *made.blobs]:
            self.blobs[digest(blob)] = blob
        return raw

    def add_manifest(self, tag: str, raw: bytes, media_type: str) -> None:
        self.manifests[tag] = self.manifests[digest(raw)] = (raw, media_type)

    def count(self, part: str) -> int:
        return sum(1 for _, path, _ in self.log if part in path)

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.host = f"127.0.0.1:{runner.addresses[0][1]}"
        return runner

    @staticmethod
    def part(request: web.Request, blob: bytes) -> web.Response:
        """``blob``, or what is asked for of it."""
        wanted = request.headers.get("Range")
        if wanted is None:
            return web.Response(body=blob)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return web.Response(status=206, body=blob[start:], headers={"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.log.append((request.method, request.path, dict(request.headers)))
        for part, answer in self.answers.items():
            if part in request.path:
                return await answer(request)
        kind, _, name = request.path.rpartition("/")
        if request.path == "/v2/":
            return web.json_response({})
        if kind.endswith("/manifests") and name in self.manifests:
            raw, media_type = self.manifests[name]
            return web.Response(body=raw, headers={"Content-Type": media_type, "Docker-Content-Digest": digest(raw)})
        if kind.endswith("/blobs") and name in self.blobs:
            return self.part(request, self.blobs[name])
        code = "MANIFEST_UNKNOWN" if "/manifests/" in request.path else "BLOB_UNKNOWN"
        body = {"errors": [{"code": code, "message": code.lower().replace("_", " "), "detail": {}}]}
        return web.json_response(body, status=404)


class Lab:
    """Images on a store of their own, and what they published."""

    def __init__(self, root: Path, spawn: Any, patience: Patience, snapshotter: str) -> None:
        self.root = root
        self.records = Records(str(root / "state.db"))
        self.content = Content(str(root))
        self.snapshotter: Snapshotter = Overlay(str(root), self.records)
        if snapshotter == "erofs":
            self.snapshotter = Erofs(str(root), self.records, str(root / "mounts"))
        self.workers, self.attendants = Workers(4), Workers(16)
        self.registry = Client(patience=patience)
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.kept: set[str] = set()
        self.images = Images(
            records=self.records,
            content=self.content,
            snapshotter=self.snapshotter,
            registry=self.registry,
            run=self.workers.run,
            attend=self.attendants.run,
            spawn=spawn,
            partials=Partials(str(root / "partial"), self.content),
            publish=lambda *event: self.events.append(event),
            keeps=lambda: self.kept,
        )

    async def pull(self, name: str, **options: Any) -> list[dict[str, Any]]:
        return [record async for record in self.images.registries.pull(name, **options)]

    async def load(self, data: bytes, **options: Any) -> list[dict[str, Any]]:
        return [record async for record in self.images.load(pieces(data), **options)]

    async def save(self, *names: str) -> bytes:
        return b"".join([chunk async for chunk in self.images.save(names)])

    def loaded(self, made: Made, *tags: str) -> Image:
        """Register an image without any archive."""
        parent: Digest | None = None
        diff_ids = [sha256(data) for data in made.tars]
        for diff_id, chain_id, data in zip(diff_ids, chain_ids(diff_ids), made.tars, strict=True):
            self.content.put(data)
            self.images.layers.unpack(chain_id, parent, diff_id, io.BytesIO(data))
            parent = chain_id
        return self.images.register(made.config, tags=tags)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition)

    def is_empty(self) -> bool:
        """Whether nothing at all is stored."""
        staging = [*(self.root / "staging").iterdir(), *(self.root / "partial").iterdir()]
        return not (
            list(self.content.digests()) or self.snapshotter.items() or self.records.items("image") or self.records.items("blob") or staging
        )


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.005)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture(params=["overlay", "erofs"])
def experiment(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """``experiment(body)``: run ``await body(lab, fake)`` in a loop of its own, and close everything."""
    if request.param == "erofs" and not erofs_works(str(tmp_path)):
        pytest.skip("this kernel cannot mount EROFS")

    def run(body: Callable[[Lab, FakeRegistry], Awaitable[None]], patience: Patience = IMPATIENT) -> None:
        async def main() -> None:
            fake = FakeRegistry()
            runner = await fake.start()
            async with asyncio.TaskGroup() as group:
                lab = Lab(tmp_path, group.create_task, patience, request.param)
                try:
                    await body(lab, fake)
                finally:
                    await lab.registry.close()
                    await runner.cleanup()
                    lab.workers.close()
                    lab.attendants.close()
                    lab.snapshotter.close()
                    lab.records.close()

        asyncio.run(main())

    return run


@pytest.fixture
def make_image() -> type[Made]:
    return Made


@pytest.fixture
def make_tar() -> Callable[..., bytes]:
    return tar


@pytest.fixture(scope="session")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``127.0.0.1:PORT`` of Debian's docker-registry."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.address
