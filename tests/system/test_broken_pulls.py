"""A pull or push whose daemon is killed, or whose disk is full: nothing half-made is seen, and the next one goes on where it broke off."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.conftest import WHERRY, Daemon
from tests.images.conftest import FakeRegistry, Made, digest
from tests.security.lying import lying_registry
from tests.system import daemons
from tests.system.registry import Registry, registry
from tests.system.talk import UnixConnection, ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
STRIDE = int(os.environ.get("WHERRY_TEST_STRIDE", "0"))  # 1: every stage; 0: a few, so that the tests stay quick
STAGES = range(1, 400, STRIDE) if STRIDE else (4, 17, 29)
SIZE = 3_000_000


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that dies when told to (`mortal_daemon`)."""
    with daemons.mortal(image=False) as daemon:
        yield daemon


def three_layers(seed: int) -> Made:
    """Layers of noise: as large compressed as not."""
    noise = random.Random(seed)
    return Made(*({f"file{number}": noise.randbytes(SIZE)} for number in range(3)))


def partials(daemon: Daemon) -> dict[str, int]:
    found = {}
    for path in (daemon.root / "data" / "partial").iterdir():
        with suppress(FileNotFoundError):  # it has served meanwhile
            found[f"sha256:{path.name[:64]}"] = path.stat().st_size
    return found


def leftovers(daemon: Daemon) -> list[Path]:
    return [path for place in ("partial", "staging") for path in (daemon.root / "data" / place).iterdir()]


def ranges(fake: FakeRegistry, made: Made) -> dict[str, list[str]]:
    """What was asked for of each layer: ``all``, or from where on."""
    found: dict[str, list[str]] = {digest(blob): [] for blob in made.blobs}
    for _, path, headers in fake.log:
        name = path.rpartition("/")[2]
        if name in found:
            found[name].append(headers.get("Range", "all"))
    return found


def check_goes_on(daemon: Daemon, fake: FakeRegistry, made: Made, name: str) -> None:
    """The dead daemon's successor finishes the pull with what is missing, and no more."""
    here, sizes = partials(daemon), {digest(blob): len(blob) for blob in made.blobs}
    daemon.start()
    images = ask(daemon, "GET", "/images/json")[1]
    assert [one["Id"] for one in images] in ([], [made.id])
    fake.log.clear()
    fake.answers.clear()
    daemon.run("pull", name)
    for blob, asked in ranges(fake, made).items():
        come = here.get(blob, 0)
        if images or come == sizes[blob]:
            assert asked == [], (blob, here)
        elif come:
            assert asked == [f"bytes={come}-"], (blob, here)
        else:
            assert asked in ([], ["all"]), (blob, here)
    assert leftovers(daemon) == []
    saved = daemon.root / "saved.tar"
    daemon.run("save", "-o", str(saved), name)
    content = saved.read_bytes()
    assert all(tar in content for tar in made.tars)
    daemon.run("rmi", name)


def kill_when(daemon: Daemon, blobs: dict[str, bytes], victim: str, sent: int) -> Callable[[web.Request], Any]:
    """Sends blobs in pieces; the daemon dies when it has so much of ``victim``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        blob = blobs[name]
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        for start in range(0, len(blob), 1 << 18):
            if name == victim and start >= sent:
                wanted = min(sent, 1 << 20)
                for _ in range(500):
                    if partials(daemon).get(victim, 0) >= wanted:
                        break
                    await asyncio.sleep(0.01)
                daemon.kill()
                raise ConnectionResetError
            await response.write(blob[start : start + (1 << 18)])
        return response

    return answer


@pytest.mark.parametrize(("layer", "sent"), [(0, 1 << 20), (2, 2 << 20)])
def test_a_pull_goes_on_where_the_daemon_was_killed(mortal: Daemon, layer: int, sent: int) -> None:
    made = three_layers(layer)
    with lying_registry() as fake:
        fake.add(made)
        blobs = {digest(blob): blob for blob in made.blobs}
        fake.answers["/blobs/sha256:"] = asyncio_or(fake, made, kill_when(mortal, blobs, digest(made.blobs[layer]), sent))
        name = f"{fake.host}/x/y:1"
        assert mortal.run("pull", name, check=False).code == 1
        assert mortal.process is not None
        mortal.process.wait(60)
        assert 0 < partials(mortal)[digest(made.blobs[layer])] < len(made.blobs[layer])
        check_goes_on(mortal, fake, made, name)


def asyncio_or(fake: FakeRegistry, made: Made, answer: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
    """The configuration as it is, layers by ``answer``."""

    async def either(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(made.id):
            return fake.part(request, made.config)
        return await answer(request)

    return either


def test_a_pull_that_dies_at_any_stage_is_done_by_the_next(mortal: Daemon) -> None:
    kill, at = mortal.root / "kill", mortal.root / "kill.at"
    for stage in STAGES:
        made = three_layers(1000 + stage)
        with lying_registry() as fake:
            fake.add(made)
            name = f"{fake.host}/x/y:1"
            kill.write_text(str(stage))
            mortal.run("pull", name, check=False)
            kill.unlink()
            if not at.exists():
                break
            assert mortal.process is not None
            mortal.process.wait(60)
            try:
                check_goes_on(mortal, fake, made, name)
            except AssertionError as error:
                raise AssertionError(f"stage {stage}: {at.read_text()}: {error}") from error
            at.unlink()
    else:
        assert not STRIDE, "it never ended"


def halting(made: Made, reached: threading.Event, go: threading.Event, ended: threading.Event) -> Callable[[web.Request], Any]:
    """The first layer stops half-way until ``go``; ``ended``: whoever fetched it has hung up."""

    async def answer(request: web.Request) -> web.StreamResponse:
        blob = {digest(one): one for one in [made.config, *made.blobs]}[request.path.rpartition("/")[2]]
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        await response.write(blob[: len(blob) // 2])
        if blob == made.blobs[0]:
            reached.set()
            while not go.is_set():
                await asyncio.sleep(0.01)
                if request.transport is None or request.transport.is_closing():
                    ended.set()
                    raise ConnectionResetError
        await response.write(blob[len(blob) // 2 :])
        return response

    return answer


def start_pull(daemon: Daemon, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "WHERRY_HOST": daemon.host, "DOCKER_CONFIG": f"{daemon.root}/config"}
    return subprocess.Popen([WHERRY, "pull", name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_download_goes_on_for_whom_it_is_left_and_ends_with_the_last(mortal: Daemon) -> None:
    made = three_layers(11)
    reached, go, ended = threading.Event(), threading.Event(), threading.Event()
    with lying_registry() as fake:
        fake.add(made)
        fake.answers["/blobs/sha256:"] = halting(made, reached, go, ended)
        name = f"{fake.host}/x/y:1"
        with start_pull(mortal, name) as first:
            assert reached.wait(60)
            with start_pull(mortal, name) as second:
                until(lambda: len([1 for _, path, _ in fake.log if path.endswith(made.id)]) == 2)
                assert second.stdout is not None
                assert b"Pulling from" in second.stdout.readline()
                until(lambda: b"Pulling fs layer" in second.stdout.readline())
                first.send_signal(signal.SIGINT)
                first.wait(60)
                go.set()
                out, _ = second.communicate(timeout=60)
                assert (second.returncode, b"Downloaded newer image" in out) == (0, True), out
        assert [len(asked) for asked in ranges(fake, made).values()] == [1, 1, 1]
        mortal.run("rmi", name)
        reached.clear()
        go.clear()
        with start_pull(mortal, name) as only:
            assert reached.wait(60)
            only.send_signal(signal.SIGINT)
            only.wait(60)
            assert ended.wait(60)
        assert ask(mortal, "GET", "/images/json")[1] == []
        go.set()
        mortal.run("pull", name)
        assert leftovers(mortal) == []
        mortal.run("rmi", name)


def last_record(daemon: Daemon, path: str) -> str:
    """How a pull over the API ends."""
    connection = UnixConnection(daemon.socket_path)
    try:
        connection.request("POST", path)
        return str(json.loads(connection.getresponse().read().splitlines()[-1]).get("status"))
    finally:
        connection.close()


def test_twenty_clients_fetch_each_blob_once(mortal: Daemon) -> None:
    made = three_layers(12)
    with lying_registry() as fake:
        fake.add(made)
        name = f"{fake.host}/x/y"
        with ThreadPoolExecutor(20) as clients:
            last = list(clients.map(lambda _: last_record(mortal, f"/images/create?fromImage={name}&tag=1"), range(20)))
        assert all(text.startswith("Status: ") for text in last), last
        assert [len(asked) for asked in ranges(fake, made).values()] == [1, 1, 1]
        mortal.run("rmi", f"{name}:1")


def leave_early(daemon: Daemon, path: str, patience_s: float) -> None:
    """Ask for a pull and hang up in the midst of it."""
    connection = UnixConnection(daemon.socket_path)
    connection.request("POST", path)
    time.sleep(patience_s)
    connection.close()


def test_no_client_that_leaves_a_pull_at_any_moment_harms_the_daemon(mortal: Daemon) -> None:
    """Also when it leaves between two records that are to be sent to it: what ended then was once the whole daemon."""
    noise = random.Random(13)
    said = len(mortal.log)
    with lying_registry() as fake, ThreadPoolExecutor(3) as clients:
        path = f"/images/create?fromImage={fake.host}/x/y&tag=1"
        for _ in range(40):
            fake.add(Made(*({f"file{number}": noise.randbytes(3000)} for number in range(6))))
            list(clients.map(lambda _: leave_early(mortal, path, noise.random() * 0.03), range(3)))
        assert last_record(mortal, path).startswith("Status: ")
        mortal.run("rmi", f"{fake.host}/x/y:1")
    mortal.run("image", "prune", "-f")  # the downloads that were broken off
    assert mortal.log[said:] == ""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path) as running:
        yield running


def test_a_push_that_dies_is_done_by_the_next(mortal: Daemon, hub: Registry, tmp_path: Path) -> None:
    made = three_layers(7)
    (tmp_path / "image.tar").write_bytes(made.docker_archive("pushed:1"))
    mortal.run("load", "-i", str(tmp_path / "image.tar"))
    kill, at = mortal.root / "kill", mortal.root / "kill.at"
    for stage in range(1, 100) if STRIDE else (3,):
        name = f"{hub.address}/push/n{stage}:1"
        mortal.run("tag", "pushed:1", name)
        kill.write_text(str(stage))
        mortal.run("push", name, check=False)
        kill.unlink()
        if not at.exists():
            break
        assert mortal.process is not None
        mortal.process.wait(60)
        at.unlink()
        mortal.start()
        assert "digest: sha256:" in mortal.out("push", name)
        assert leftovers(mortal) == []
        mortal.run("rmi", name)
    mortal.run("rmi", "-f", "pushed:1")


@pytest.fixture
def cramped() -> Iterator[Daemon]:
    """A daemon whose data root is a file system of 12 MiB."""
    with daemons.cramped(12, image=False) as daemon:
        yield daemon


def test_a_full_disk_ends_a_pull_and_has_room_again(cramped: Daemon) -> None:
    def used() -> int:
        status = os.statvfs(cramped.root / "data")
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    with lying_registry() as fake:
        fake.add(three_layers(5))
        before = used()
        done = cramped.run("pull", f"{fake.host}/x/y:1", check=False)
        assert (done.code, "no space left on device" in done.err.lower()) == (1, True), done
        assert ask(cramped, "GET", "/images/json")[1] == []
        assert partials(cramped) == {}
        until(lambda: used() - before < 5_000_000)  # what had been unpacked whole goes with the next garbage collection
        assert "Traceback" not in cramped.log
        small = Made({"a": b"1" * 1000})
        fake.add(small, "small")
        cramped.run("pull", f"{fake.host}/x/y:small")
        assert leftovers(cramped) == []
