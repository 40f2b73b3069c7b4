"""Any one file of the data root harmed: the daemon starts, names what is damaged, serves the rest, and `fsck --repair` and a load mend it.

``WHERRY_HARM_ROUNDS`` asks for more rounds than the suite has time for.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, make_daemon, running
from tests.system.accounting import tar_of

from wherry.store import journal

pytestmark = [pytest.mark.root, pytest.mark.slow]
ROUNDS = int(os.environ.get("WHERRY_HARM_ROUNDS", "3"))
NEVER = {"daemon.lock"}
DOCKERFILE = "FROM bb\nRUN echo built > /built && dd if=/dev/zero of=/big bs=1k count=64\nENV A=1\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    """A daemon with something of every kind, and an archive of its images."""
    place = tmp_path_factory.mktemp("saved")
    (place / "Dockerfile").write_text(DOCKERFILE)
    with running(make_daemon()) as daemon:
        daemon.run("build", "-q", "-t", "built", str(place))
        daemon.run("import", "-", "other", stdin=busybox_tar() + b"other")
        daemon.run("save", "-o", str(place / "images.tar"), "bb", "built", "other")
        daemon.run("volume", "create", "data")
        daemon.run("network", "create", "net")
        daemon.run("run", "-v", "data:/data", "--name", "kept", "bb", "sh", "-c", "echo written > /data/file; echo said")
        yield daemon, place / "images.tar"


def targets(data: Path) -> list[Path]:
    """Every regular file of the state, but those whose content only their owner knows."""
    found = [path for path in sorted(data.rglob("*")) if stat.S_ISREG(path.lstat().st_mode)]
    return [
        path
        for path in found
        if path.name not in NEVER and path.relative_to(data).parts[0] not in ("volumes", "quarantine") and ".damaged-" not in path.name
    ]


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:
        file.write(data)


HARMS: dict[str, Callable[[Path, random.Random], object]] = {
    "delete": lambda path, _: path.unlink(),
    "zero": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "truncate": lambda path, chance: os.truncate(path, chance.randrange(path.stat().st_size or 1)),
    "flip": flip,
}


def works(daemon: Daemon, image: str) -> bool:
    return daemon.run("run", "--rm", "--net", "none", image, "cat", "/etc/passwd", check=False).code == 0


def harmed(daemon: Daemon, archive: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = daemon.root / "data"
    daemon.kill()
    path = chance.choice(targets(data))
    how = chance.choice(sorted(HARMS))
    case = f"round {seed}: {how} {path.relative_to(data)}"
    HARMS[how](path, chance)
    try:
        daemon.start()
    except RuntimeError as error:
        raise AssertionError(f"{case}: {error}") from error
    for arguments in (("images",), ("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        assert daemon.run(*arguments, check=False).code == 0, case
    works = [
        daemon.run("run", "--rm", "--net", "none", image, "cat", "/etc/passwd", check=False).code == 0 for image in ("bb", "built", "other")
    ]
    assert works.count(True) >= 1, f"{case}: {daemon.log[-3000:]}"  # one layer is everybody's
    mended = daemon.run("system", "fsck", "--repair", "--format", "json", check=False)
    left = [finding for finding in map(json.loads, mended.out.splitlines()) if not finding["Mended"]]
    assert not any(finding["Error"] for finding in left), f"{case}: {left}"
    daemon.run("load", "-i", str(archive))
    if (left and "built" in mended.out) or daemon.run("run", "--rm", "--net", "none", "built", "true", check=False).code:
        daemon.run("build", "-q", "-t", "built", str(archive.parent))
    daemon.run("image", "prune", "-f")  # what was built again has a new id: the damaged one is nobody's
    clean = daemon.run("system", "fsck", check=False)
    assert clean.code == 0, f"{case}: {clean.out}{clean.err}"
    for image, file in (("bb", "/etc/passwd"), ("other", "/etc/passwd"), ("built", "/built")):
        assert daemon.run("run", "--rm", "--net", "none", image, "cat", file).out, case
    assert daemon.out("run", "--rm", "--net", "none", "-v", "data:/data", "bb", "cat", "/data/file") == "written", case


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_any_file_harmed(saved: tuple[Daemon, Path], seed: int) -> None:
    daemon, archive = saved
    harmed(daemon, archive, seed)


def test_rows_that_cannot_be_read_harm_nothing_else_and_lose_nothing(saved: tuple[Daemon, Path]) -> None:
    daemon, _ = saved
    ids = {name: daemon.out("image", "inspect", "-f", "{{.Id}}", name) for name in ("bb", "other")}
    kept = daemon.out("inspect", "-f", "{{.Id}}", "kept")
    lost = {"image": ids["other"], "volume": "data", "network": daemon.out("network", "inspect", "-f", "{{.Id}}", "net"), "container": kept}
    daemon.kill()
    with sqlite3.connect(daemon.root / "data" / "state.db") as connection:
        for kind, ident in lost.items():
            assert connection.execute("UPDATE item SET body = ? WHERE kind = ? AND ident = ?", (b"{", kind, ident)).rowcount == 1
    connection.close()
    (daemon.root / "data" / "state.journal").unlink()
    daemon.start()
    assert daemon.log.count("can't be read") == len(lost)
    assert works(daemon, "bb")
    assert "other" not in daemon.out("images")
    daemon.run("system", "prune", "-af", "--filter", "label!=none")  # even now nothing goes that a lost record may name
    assert set(lost) <= {line.split()[0] for line in daemon.run("system", "fsck", check=False).out.splitlines()}
    assert daemon.run("system", "fsck", "--repair", check=False).code == 0
    assert daemon.out("system", "fsck") == "Nothing is wrong."
    assert works(daemon, "other")
    assert daemon.out("run", "--rm", "--net", "none", "-v", "data:/data", "other", "cat", "/data/file") == "written"
    quarantine = daemon.root / "data" / "quarantine"
    assert any("said" in path.read_text() for path in quarantine.glob(f"container-{kept[:12]}*/*.log"))
    assert list(quarantine.glob(f"container-{kept[:12]}-layer*"))


def test_what_a_second_copy_that_ended_early_does_not_tell_of_is_kept(saved: tuple[Daemon, Path]) -> None:
    daemon, _ = saved
    data = daemon.root / "data"
    before = journal.read(str(data / "state.journal"))
    assert before is not None
    daemon.run("build", "-q", "-t", "late", "-", stdin=tar_of({"Dockerfile": b"FROM other\nENV LATE=1\n"}))
    late = daemon.out("image", "inspect", "-f", "{{.Id}}", "late")
    daemon.run("volume", "create", "late")
    daemon.run("run", "--name", "lost", "--net", "none", "-v", "late:/data", "late", "sh", "-c", "echo precious | tee /mine > /data/file")
    daemon.kill()
    for path in data.glob("state.db*"):
        path.unlink()
    os.truncate(data / "state.journal", before.size_bytes)
    daemon.start()
    assert daemon.run("inspect", "lost", check=False).code
    daemon.run("builder", "prune", "-af")
    assert "records: come from their second copy" in daemon.run("system", "fsck", check=False).out
    assert daemon.run("system", "fsck", "--repair", check=False).code == 0
    assert daemon.out("system", "fsck") == "Nothing is wrong."
    assert daemon.out("run", "--rm", "--net", "none", "-v", "late:/data", late, "sh", "-c", "echo $LATE; cat /data/file") == "1\nprecious"
    assert [path.read_text() for path in data.glob("quarantine/**/mine")] == ["precious\n"]
    assert works(daemon, "other")


def test_networks_that_every_daemon_has_come_back_when_their_records_are_lost(saved: tuple[Daemon, Path]) -> None:
    daemon, _ = saved
    daemon.kill()
    with sqlite3.connect(daemon.root / "data" / "state.db") as connection:
        names = dict(connection.execute("SELECT name, ident FROM name WHERE kind = 'network'"))
        for name in ("bridge", "host"):
            connection.execute("UPDATE item SET body = ? WHERE kind = 'network' AND ident = ?", (b"{", names[name]))
        connection.execute("DELETE FROM item WHERE kind = 'network' AND ident = ?", (names["none"],))
    connection.close()
    (daemon.root / "data" / "state.journal").unlink()
    daemon.start()
    assert set(daemon.out("network", "ls", "--format", "{{.Name}}").splitlines()) >= {"bridge", "host", "none"}
    for network in ("bridge", "host", "none"):
        assert daemon.out("run", "--rm", "--net", network, "other", "echo", "ran") == "ran"
    assert daemon.run("system", "fsck", "--repair", check=False).code == 0
    assert daemon.out("system", "fsck") == "Nothing is wrong."


def test_when_all_records_are_lost_volumes_are_there_and_the_rest_is_kept(saved: tuple[Daemon, Path]) -> None:
    daemon, archive = saved
    data = daemon.root / "data"
    daemon.kill()
    for path in data.glob("state.*"):
        path.unlink()
    daemon.start()
    assert daemon.out("images", "-q") == daemon.out("ps", "-aq") == ""
    assert "data" in daemon.out("volume", "ls", "-q").split()
    daemon.run("load", "-i", str(archive))
    assert daemon.out("run", "--rm", "--net", "none", "-v", "data:/data", "bb", "cat", "/data/file") == "written"
    assert {path.name for path in data.glob("lost-*/*")} >= {"content", "snapshots"}
    assert daemon.out("system", "fsck") == "Nothing is wrong."


def test_a_newer_data_root_is_refused(saved: tuple[Daemon, Path]) -> None:
    daemon, _ = saved
    daemon.stop()
    database = daemon.root / "data" / "state.db"
    with sqlite3.connect(database) as connection:
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    with pytest.raises(RuntimeError, match=r"the daemon cannot start: .*state.db was written by a newer version of Wherry"):
        daemon.start()
    with sqlite3.connect(database) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    daemon.start()
    assert "other" in daemon.out("images")
