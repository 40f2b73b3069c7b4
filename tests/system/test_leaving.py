"""Clients that hang up in the midst of anything: whatever was done for them ends, and the daemon neither loses nor says anything."""

from __future__ import annotations

import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest
from tests.conftest import Daemon, busybox_tar
from tests.images.conftest import Made, tar
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
SECONDS = float(os.environ.get("WHERRY_TEST_SECONDS", "10"))
TALKER = "while :; do seq 200; sleep 0.02; done"


@dataclass(frozen=True)
class Wish:
    """A request, and what is sent with it."""

    method: str
    path: str
    body: bytes = b""

    def head(self) -> bytes:
        kind = "application/x-tar" if self.body else "application/json"
        return f"{self.method} {self.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(self.body)}\r\n\r\n".encode()


def wishes() -> list[Wish]:
    noise = random.Random(1)
    image = Made(*({f"file{number}": noise.randbytes(100_000)} for number in range(3)))
    context = tar({"Dockerfile": b"FROM bb\nCOPY big /big\nRUN seq 2000\n", "big": noise.randbytes(300_000)})
    return [
        Wish("POST", "/images/load?quiet=0", image.docker_archive("left:1")),
        Wish("POST", "/images/create?fromSrc=-&repo=left", busybox_tar()),
        Wish("POST", "/build?nocache=1&t=left", context),
        Wish("PUT", "/containers/talker/archive?path=/tmp", tar({"x": noise.randbytes(1_000_000)})),
        Wish("POST", "/containers/talker/attach?stream=1&stdout=1&stdin=1"),
        Wish("POST", "/containers/talker/wait"),
        Wish("GET", "/containers/talker/logs?stdout=1&follow=1"),
        Wish("GET", "/containers/talker/stats"),
        Wish("GET", "/containers/talker/export"),
        Wish("GET", "/containers/talker/archive?path=/bin"),
        Wish("GET", "/containers/talker/changes"),
        Wish("GET", "/images/bb/get"),
        Wish("GET", "/events?since=1"),
    ]


def leave_midway(daemon: Daemon, wish: Wish, chance: random.Random) -> None:
    """Send some of it, hear some of the answer, perhaps say that no more is sent, and go."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(chance.uniform(0.001, 0.3))
        client.connect(daemon.socket_path)
        until_s = time.monotonic() + chance.uniform(0, 0.2)
        with suppress(OSError):
            client.sendall(wish.head() + wish.body[: chance.choice([len(wish.body), chance.randint(0, len(wish.body))])])
            if chance.random() < 0.3:
                client.shutdown(socket.SHUT_WR)
            while time.monotonic() < until_s and client.recv(chance.choice([10, 4096, 65536])):
                pass


def descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def test_whoever_leaves_at_whatever_moment_of_anything_is_no_news(own_engine: Daemon) -> None:
    engine, choice = own_engine, wishes()
    engine.run("run", "-d", "-i", "--name", "talker", "bb", "sh", "-c", TALKER)
    for wish in choice:  # once each, so that what is loaded for it is not growth
        leave_midway(engine, wish, random.Random(0))
    before, said = descriptors(engine), len(engine.log)
    end = time.monotonic() + SECONDS

    def go(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            leave_midway(engine, chance.choice(choice), chance)

    with ThreadPoolExecutor(6) as clients:
        list(clients.map(go, range(6)))
    assert ask(engine, "GET", "/_ping")[0] == 200
    until(lambda: descriptors(engine) <= before + 3)
    assert [line for line in engine.log[said:].splitlines() if " INFO " not in line] == []
