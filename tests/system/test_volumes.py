"""Volumes and mounts through the command line: what is shared, copied up, kept, removed, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon

pytestmark = pytest.mark.root


def test_a_named_volume_outlives_its_containers(engine: Daemon) -> None:
    engine.run("run", "--rm", "-v", "kept:/data", "bb", "sh", "-c", "echo saved > /data/x")
    assert engine.out("run", "--rm", "-v", "kept:/elsewhere", "bb", "cat", "/elsewhere/x") == "saved"
    assert engine.out("volume", "ls", "-q", "-f", "name=kept") == "kept"
    place = Path(engine.out("volume", "inspect", "kept", "-f", "{{.Mountpoint}}"))
    assert (place / "x").read_text() == "saved\n"
    assert engine.out("volume", "rm", "kept") == "kept"
    assert not place.exists()


def test_an_empty_volume_takes_what_the_image_has_there_and_keeps_it(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN mkdir /data && echo first > /data/x && chown al:al /data\nVOLUME /data\n")
    engine.run("build", "-q", "-t", "seeded", str(tmp_path))
    assert engine.out("run", "--rm", "-v", "copied:/data", "seeded", "sh", "-c", "cat /data/x; stat -c %U /data") == "first\nal"
    engine.run("run", "--rm", "-v", "copied:/data", "seeded", "sh", "-c", "echo second > /data/x")
    assert engine.out("run", "--rm", "-v", "copied:/data", "seeded", "cat", "/data/x") == "second"
    assert engine.out("run", "--rm", "-v", "plain:/data:nocopy", "seeded", "ls", "/data") == ""
    engine.run("volume", "rm", "copied", "plain")
    engine.run("rmi", "seeded")


def test_an_anonymous_volume_goes_with_its_container_when_told(engine: Daemon) -> None:
    def name_of(container: str) -> str:
        return str(json.loads(engine.out("inspect", container, "-f", "{{json .Mounts}}"))[0]["Name"])

    engine.run("create", "--name", "stays", "-v", "/data", "bb", "true")
    engine.run("create", "--name", "goes", "-v", "/data", "bb", "true")
    stays, goes = name_of("stays"), name_of("goes")
    engine.run("rm", "stays")
    engine.run("rm", "-v", "goes")
    assert engine.out("volume", "ls", "-q", "-f", f"name={stays}") == stays
    assert engine.out("volume", "ls", "-q", "-f", f"name={goes}") == ""
    engine.run("volume", "rm", stays)


def test_a_volume_in_use_is_not_removed(engine: Daemon) -> None:
    engine.run("create", "--name", "holder", "-v", "held:/data", "bb", "true")
    refused = engine.run("volume", "rm", "held", check=False)
    assert refused.code == 1
    assert "volume is in use" in refused.err
    engine.run("rm", "holder")
    engine.run("volume", "rm", "held")


def test_prune_removes_anonymous_volumes_and_with_all_the_named_too(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("volume", "create", "named")
    engine.run("create", "--name", "short", "-v", "/anonymous", "bb", "true")
    engine.run("rm", "short")
    assert "Total reclaimed space" in engine.out("volume", "prune", "-f")
    assert engine.out("volume", "ls", "-q") == "named"
    refused = engine.run("volume", "prune", "-a", "-f", "--filter", "all=false", check=False)
    assert (refused.code, refused.err) == (1, "conflicting options: cannot specify both --all and --filter all=1\n")
    engine.run("volume", "prune", "-a", "-f")
    assert engine.out("volume", "ls", "-q") == ""


def test_a_bind_mount_shows_the_hosts_files_both_ways(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    assert (
        engine.out("run", "--rm", "-v", f"{tmp_path}:/shared", "bb", "sh", "-c", "cat /shared/in; echo back > /shared/out")
        == "from the host"
    )
    assert (tmp_path / "out").read_text() == "back\n"
    refused = engine.run("run", "--rm", "-v", f"{tmp_path}:/shared:ro", "bb", "touch", "/shared/no", check=False)
    assert "Read-only file system" in refused.err
    assert not (tmp_path / "no").exists()


def test_v_makes_a_missing_folder_and_mount_refuses_it(engine: Daemon, tmp_path: Path) -> None:
    engine.run("run", "--rm", "-v", f"{tmp_path}/made:/x", "bb", "true")
    assert (tmp_path / "made").is_dir()
    refused = engine.run("run", "--rm", "--mount", f"type=bind,source={tmp_path}/absent,target=/x", "bb", "true", check=False)
    assert refused.code == 125
    assert f"bind source path does not exist: {tmp_path}/absent" in refused.err


def test_a_single_file_can_be_mounted(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("A=1")
    assert engine.out("run", "--rm", "-v", f"{tmp_path}/settings:/etc/settings:ro", "bb", "cat", "/etc/settings") == "A=1"


def test_mounts_of_every_type_by_the_long_flag(engine: Daemon, tmp_path: Path) -> None:
    mounts = [
        f"type=bind,source={tmp_path},target=/bound,readonly",
        "type=volume,source=longflag,target=/volume",
        "type=tmpfs,target=/memory,tmpfs-size=1m",
    ]
    options = [word for mount in mounts for word in ("--mount", mount)]
    script = "for d in /bound /volume /memory; do touch $d/x 2>/dev/null && echo $d; done; grep ' /memory ' /proc/mounts"
    lines = engine.out("run", "--rm", *options, "bb", "sh", "-c", script).splitlines()
    assert lines[:2] == ["/volume", "/memory"]
    assert "size=1024k" in lines[2]
    engine.run("volume", "rm", "longflag")


def test_volumes_from_gives_another_containers_mounts(engine: Daemon, tmp_path: Path) -> None:
    engine.run("create", "--name", "donor", "-v", "donated:/one", "-v", f"{tmp_path}:/two", "bb", "true")
    (tmp_path / "file").write_text("here")
    assert engine.out("run", "--rm", "--volumes-from", "donor", "bb", "sh", "-c", "ls -d /one; cat /two/file") == "/one\nhere"
    assert engine.run("run", "--rm", "--volumes-from", "donor:ro", "bb", "touch", "/one/x", check=False).code == 1
    engine.run("rm", "donor")
    engine.run("volume", "rm", "donated")


def test_a_containers_writes_do_not_reach_its_image_or_its_siblings(engine: Daemon) -> None:
    engine.run("run", "--name", "writer", "bb", "sh", "-c", "echo mine > /etc/passwd")
    assert "root:x:0:0" in engine.out("run", "--rm", "bb", "cat", "/etc/passwd")
    engine.run("start", "-a", "writer")
    engine.run("cp", "writer:/etc/passwd", "/dev/null", check=False)
    engine.run("rm", "writer")


def test_wrong_mounts_are_refused_and_leave_nothing(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kinds = (
        "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type"
    )
    before = engine.out("volume", "ls", "-q")
    for wrong, message in (
        (["-v", "relative/path:/x"], "includes invalid characters for a local volume name"),
        (["-v", "name:relative"], "mount path must be absolute"),
        (["-v", "first:/x", "-v", "second:/x"], "Duplicate mount point: /x"),
        (["--mount", "type=bogus,target=/x"], "bogus"),
        (
            ["-v", f"{tmp_path}:/bin/busybox"],
            f'"{tmp_path}" to rootfs at "/bin/busybox": mount src={tmp_path}, dst=/bin/busybox: not a directory: {kinds}',
        ),
        (
            ["-v", f"{tmp_path}/file:/bin"],
            f'"{tmp_path}/file" to rootfs at "/bin": mount src={tmp_path}/file, dst=/bin: not a directory: {kinds}',
        ),
    ):
        refused = engine.run("run", "--rm", *wrong, "bb", "true", check=False)
        assert (refused.code, message in refused.err) == (125, True), refused
    assert engine.out("volume", "ls", "-q") == before
    engine.run("run", "--name", "mismatched", "-v", f"{tmp_path}/file:/bin", "bb", "true", check=False)
    assert engine.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "mismatched") == "created 127"
    engine.run("rm", "mismatched")


PARTS = """mkdir -p /v/sub/inner; for d in /v /v/sub /v/sub/inner; do echo $d >$d/here; done
ln -s sub /v/link; ln -s /sub /v/absolute; ln -s ../.. /v/sub/out; ln -s sub/here /v/file"""


@pytest.fixture(scope="module")
def parts(engine: Daemon) -> Iterator[Path]:
    """The volume ``parts``, where it lies."""
    engine.run("run", "--rm", "-v", "parts:/v", "bb", "sh", "-c", PARTS)
    yield Path(engine.out("volume", "inspect", "parts", "-f", "{{.Mountpoint}}"))
    engine.run("volume", "rm", "parts")


@pytest.mark.parametrize(("subpath", "place"), [("sub", "sub"), ("sub/inner", "sub/inner"), ("link", "sub")])
def test_cp_goes_to_a_volumes_subpath_whether_or_not_its_container_runs(
    engine: Daemon, parts: Path, tmp_path: Path, subpath: str, place: str
) -> None:
    engine.run("create", "--name", "parted", "--mount", f"type=volume,src=parts,dst=/m,volume-subpath={subpath}", "bb", "sleep", "1000")
    (tmp_path / "new").write_text("new")
    for state in ("created", "running"):
        engine.run("cp", "parted:/m", str(tmp_path / state))
        engine.run("cp", "parted:/m/here", str(tmp_path / "alone"))
        assert (tmp_path / state / "here").read_text() == (tmp_path / "alone").read_text() == f"/v/{place}\n"
        engine.run("cp", str(tmp_path / "new"), f"parted:/m/{state}")
        assert (parts / place / state).read_text() == "new"
        engine.run("start", "parted")
    assert engine.out("exec", "parted", "cat", "/m/created", "/m/running") == "newnew"
    engine.run("rm", "-f", "parted")
    for state in ("created", "running"):
        (parts / place / state).unlink()


def test_cp_of_a_subpath_that_is_a_file_brings_that_file(engine: Daemon, parts: Path, tmp_path: Path) -> None:
    engine.run("create", "--name", "parted", "--mount", "type=volume,src=parts,dst=/m,volume-subpath=file", "bb", "sleep", "1000")
    for _ in ("created", "running"):
        engine.run("cp", "parted:/m", str(tmp_path / "m"))
        assert (tmp_path / "m").read_text() == "/v/sub\n"
        (tmp_path / "m").unlink()
        engine.run("start", "parted")
    engine.run("rm", "-f", "parted")


@pytest.mark.parametrize(
    ("subpath", "words"),
    [
        ("absolute", "path concatenation escapes the base directory, base: {volume}, subpath: absolute"),
        ("sub/out", "path concatenation escapes the base directory, base: {volume}, subpath: sub/out"),
        ("none", "cannot access path {volume}/none: lstat {volume}/none: no such file or directory"),
    ],
)
def test_a_subpath_that_leads_nowhere_in_its_volume_is_refused_by_cp_as_by_start(
    engine: Daemon, parts: Path, tmp_path: Path, subpath: str, words: str
) -> None:
    engine.run("create", "--name", "parted", "--mount", f"type=volume,src=parts,dst=/m,volume-subpath={subpath}", "bb", "true")
    (tmp_path / "new").write_text("new")
    expected = words.format(volume=parts)
    for arguments in (["start", "parted"], ["cp", "parted:/m/here", str(tmp_path / "x")], ["cp", str(tmp_path / "new"), "parted:/m/n"]):
        failed = engine.run(*arguments, check=False)
        assert (failed.code, expected in failed.err) == (1, True), failed
    assert not (tmp_path / "x").exists()
    engine.run("rm", "parted")
