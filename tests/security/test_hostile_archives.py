"""Every archive of `archives.py` through the real daemon: refused in words or harmless, nothing stored, little remembered.

``tools/hostile`` makes the table in ``docs/hostile-input.md`` of what is printed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, make_daemon, running
from tests.security import archives
from tests.security.test_hostile import Canary
from tests.security.watching import MEMORY_KB, Watch
from tests.system.talk import UnixConnection, ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
LONGEST_S = 20  # alone none takes 3
PATHS = {"load": "/images/load?quiet=1", "import": "/images/create?fromSrc=-&repo=hostile"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One that has loaded, imported and removed: what is loaded for that is not growth."""
    with running(make_daemon(), image=False) as daemon:
        for how, body in (("load", archives.archive_of(busybox_tar())), ("import", busybox_tar())):
            assert send(daemon, how, body) == ""
            ask(daemon, "DELETE", "/images/hostile:latest?force=1")
        yield daemon


def send(daemon: Daemon, how: str, body: bytes) -> str:
    """What went wrong, in the daemon's words; nothing when it went well."""
    with closing(UnixConnection(daemon.socket_path)) as connection:
        connection.request("POST", PATHS[how], body, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        lines = [json.loads(line) for line in answer.read().splitlines() if line]
    return "".join(line.get("error") or (line.get("message", "") if answer.status >= 400 else "") for line in lines)


@pytest.mark.parametrize("group", ["a layer", "import", "load"])
def test_hostile_archives_are_refused_in_words_or_do_no_harm(daemon: Daemon, tmp_path: Path, group: str) -> None:
    canary = Canary(tmp_path / "canary")
    made = {"a layer": archives.layers, "load": archives.outers, "import": archives.streams}[group](canary.path)
    wrong = []
    for name, data in made.items():
        body = archives.archive_of(busybox_tar(), data) if group == "a layer" else data
        watch = Watch(daemon)
        told = send(daemon, "import" if group == "import" else "load", body)
        watch.end(group, name, told)
        expected = archives.REFUSED.get(name)
        if (expected is None and told) or (expected is not None and expected not in told):
            wrong.append(f"{name}: {told!r} instead of {expected!r}")
        if watch.grown_kb >= MEMORY_KB or watch.seconds > LONGEST_S:
            wrong.append(f"{name}: {watch.grown_kb} kB, {watch.seconds:.1f} s")
        if not told:
            ask(daemon, "DELETE", "/images/hostile:latest?force=1")
        try:
            until(lambda watch=watch: not watch.left(), seconds=2)  # 6 ms when the machine is four times overloaded
        except AssertionError:
            wrong.append(f"{name}: left {watch.left()}")
        canary.check()
    assert not wrong, "\n".join(wrong)
    assert ask(daemon, "GET", "/images/json")[1] == []
    assert "Traceback" not in daemon.log
