"""A bench for builds: the real store, runtime and images, on a data root of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.system.waiting import until

from wherry.build.packed import PackedContext
from wherry.build.progress import Happening, Output, Why
from wherry.build.services import BuildRequest, BuildResult, BuildServices, RunSandbox, RunSpec
from wherry.build.solve import build
from wherry.images.partials import Partials
from wherry.images.service import Images
from wherry.registry.client import Client
from wherry.runtime import defaults
from wherry.runtime.supervisor import Supervisor
from wherry.spec.digest import sha256
from wherry.spec.image import Config, History, ImageConfig, RootFS, encode
from wherry.spec.settings import Settings
from wherry.store.choice import choose
from wherry.store.content import Content
from wherry.store.records import Records

BUSYBOX = "/bin/busybox"
APPLETS = (
    "sh cat chmod chown cp cut echo env false find grep head hostname id ln ls mkdir mv rm seq sleep stat tail test touch true wc".split()
)
T = TypeVar("T")


@dataclass
class Outcome:
    """What a build gave, and what was told on the way."""

    result: BuildResult
    events: list[Happening]

    @property
    def output(self) -> str:
        return b"".join(event.data for event in self.events if isinstance(event, Output)).decode()

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Why)]


@dataclass
class Bench:
    root: Path
    runner: asyncio.Runner
    settings: Settings
    images: Images
    services: BuildServices
    sandboxes: list[RunSpec] = field(default_factory=list)
    contexts: int = 0

    def run(self, work: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def context(self, dockerfile: str, files: dict[str, str | bytes] | None = None) -> Path:
        """A fresh context directory."""
        self.contexts += 1
        context = self.root / f"context-{self.contexts}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile)
        for name, content in (files or {}).items():
            path = context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return context

    def build(self, text: str, files: dict[str, str | bytes] | None = None, /, **request: Any) -> Outcome:
        """Build in a fresh context."""
        return self.build_in(self.context(text, files), **request)

    def build_in(self, context: Path, **request: Any) -> Outcome:
        events: list[Happening] = []
        with self.packed(context) as packed:
            asked = BuildRequest(context=packed, **request)
            return Outcome(self.run(build(asked, self.services, events.append)), events)

    @contextlib.contextmanager
    def packed(self, context: Path) -> Iterator[PackedContext]:
        """A context as a client sends it."""
        staging = self.root / "data/staging"
        staging.mkdir(exist_ok=True)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(context, ".")
        archive.seek(0)
        packed = PackedContext(archive, str(staging))
        try:
            yield packed
        finally:
            packed.close()
            shutil.rmtree(packed.left, ignore_errors=True)

    def config(self, outcome: Outcome) -> ImageConfig:
        return self.images.resolve(outcome.result.image_id).config

    def left(self) -> tuple[list[str], list[str]]:
        """What a failed build must not leave: active snapshots, staging; nor cgroups, which go just after an end was told."""
        active = [info.name for info in self.services.snapshotter.items() if info.active]
        staging = os.path.join(self.settings.data_root, "staging")
        until(lambda: not self._groups())
        return active, os.listdir(staging) if os.path.isdir(staging) else []

    def _groups(self) -> list[str]:
        names = os.listdir("/sys/fs/cgroup/pids/" + self.settings.tag) if self._has_group() else []
        return [name for name in names if len(name) == 64]

    def _has_group(self) -> bool:
        return os.path.isdir("/sys/fs/cgroup/pids/" + self.settings.tag)


def make_base(root: Path) -> None:
    """A small root file system around busybox."""
    for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nbobs:x:1001:\n")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if os.geteuid() != 0 or not os.path.exists(BUSYBOX):
        pytest.skip("needs root and a static busybox")
    root = tmp_path_factory.mktemp("build")
    settings = Settings(data_root=str(root / "data"), run_root=str(root / "run"))
    os.mkdir(settings.data_root)
    os.mkdir(settings.run_root)
    records = Records(os.path.join(settings.data_root, "state.db"))
    snapshotter = choose(settings, records)
    sandboxes: list[RunSpec] = []
    with asyncio.Runner() as runner:
        supervisor = Supervisor()
        registry = Client()
        content = Content(settings.data_root)
        images = Images(
            records=records,
            content=content,
            snapshotter=snapshotter,
            registry=registry,
            run=asyncio.to_thread,
            attend=asyncio.to_thread,
            spawn=_no_tasks,
            partials=Partials(os.path.join(settings.data_root, "partial"), content),
        )
        services = BuildServices(
            settings=settings,
            snapshotter=snapshotter,
            records=records,
            supervisor=supervisor,
            resolve=images.resolve,
            register=partial(_in_a_thread, images.register),
            pull=images.registries.pull,
            sandbox=_sandbox(settings, sandboxes),
            blocking=asyncio.to_thread,
        )
        bench = Bench(root, runner, settings, images, services, sandboxes)
        runner.run(supervisor.start())
        add_base(bench, "base", root / "base")
        yield bench
        runner.run(supervisor.close())
        runner.run(registry.close())
    snapshotter.close()
    records.close()


def add_base(bench: Bench, name: str, root: Path, **config: Any) -> str:
    """An image of one layer from a root file system; its id."""
    make_base(root)
    archive = root.parent / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".")
    diff_id = sha256(archive.read_bytes())
    with archive.open("rb") as stream:
        bench.services.snapshotter.apply(str(diff_id), None, stream)
    document = ImageConfig(
        architecture="amd64",
        os="linux",
        created="2026-01-02T03:04:05Z",
        config=Config(**config),
        rootfs=RootFS(diff_ids=[diff_id]),
        history=[History(created="2026-01-02T03:04:05Z", comment="a base")],
    )
    return bench.images.register(encode(document), tags=[f"{name}:latest"]).id


def _in_a_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What waits for the disk, and so must not be called where everybody waits for it."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    return function(*args, **kwargs)


def _no_tasks(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("nothing is pulled in these tests")


def _sandbox(settings: Settings, seen: list[RunSpec]) -> Callable[[RunSpec], Awaitable[RunSandbox]]:
    """A container like the engine's, without a network of its own making."""

    async def sandbox(spec: RunSpec) -> RunSandbox:
        seen.append(spec)
        names = list(defaults.CAPABILITIES)
        namespaces = [{"type": kind} for kind in defaults.NAMESPACES if spec.network != "host" or kind != "network"]
        config = {
            "ociVersion": "1.2.0",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": list(spec.args),
                "env": list(spec.env),
                "cwd": spec.cwd,
                "capabilities": {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []},
            },
            "root": {"path": "rootfs"},
            "hostname": spec.hostname,
            "mounts": [*defaults.mounts(), *spec.mounts],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": f"/{settings.tag}/{spec.id}",
                "maskedPaths": list(defaults.MASKED_PATHS),
                "readonlyPaths": list(defaults.READONLY_PATHS),
            },
        }

        async def cleanup() -> None:
            return None

        return RunSandbox(config=config, netns_fd=None, cleanup=cleanup)

    return sandbox
