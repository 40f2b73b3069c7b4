"""Looking into images through the command line: what is said is what a container has."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from tests.conftest import WHERRY, Daemon
from tests.system.terminal import Terminal
from tests.system.test_images import build

FURNITURE = ("/.dockerenv", "/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf")


def test_the_files_of_a_built_image_are_those_of_its_container(engine: Daemon, tmp_path: Path) -> None:
    steps = (
        "RUN mkdir /d && echo 1 > /d/one && ln /d/one /d/two && ln -s one /d/three && rm /etc/group\nRUN echo 22 > /d/one && rm -r /home\n"
    )
    build(engine, tmp_path / "c", f"FROM bb\n{steps}", "-t", "looked")
    said = {}
    for line in engine.out("image", "files", "looked", "--format", "json").splitlines():
        entry = json.loads(line)
        said[entry["Path"]] = (entry["Mode"][0], int(entry["Bytes"]), entry["Target"])
    engine.run("create", "--name", "looked", "looked", "true")
    engine.run("export", "looked", "-o", f"{tmp_path}/tree.tar")
    engine.run("rm", "looked")
    kinds = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.REGTYPE: "-", tarfile.LNKTYPE: "-"}
    with tarfile.open(tmp_path / "tree.tar") as tar:
        exported = {"/" + one.name.rstrip("/"): one for one in tar if not ("/" + one.name).startswith(FURNITURE)}
        sizes = {path: tar.getmember(one.linkname).size if one.islnk() else one.size for path, one in exported.items()}
    assert {path for path in said if not path.startswith(FURNITURE)} == exported.keys()
    for path, one in exported.items():
        assert said[path] == (kinds[one.type], sizes[path], one.linkname if one.issym() else ""), path

    changes = engine.out("image", "files", "--layer", "3", "looked", "--format", "{{.Change}} {{.Path}}").splitlines()
    assert changes == ["C /d", "C /d/one", "D /home"]  # overlayfs breaks the link
    layers = json.loads("[" + engine.out("image", "layers", "looked", "--format", "json").replace("\n", ",") + "]")
    assert [(layer["Layer"], layer["Deleted"]) for layer in layers] == [("1", "0"), ("2", "1"), ("3", "1")]
    waste = engine.out("image", "layers", "--waste", "looked")
    assert "deleted in 2   /etc/group" in waste
    assert engine.out("image", "diff", "bb", "looked").splitlines()[-2:] == ["D /etc/group", "D /home"]
    assert engine.out("image", "diff", "looked", "looked") == ""
    engine.run("rmi", "looked")


def test_hostile_names_are_shown_and_do_not_drive_the_terminal(engine: Daemon) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("\x1b]0;owned\x07", "\udcff\n"):
            tar.addfile(tarfile.TarInfo(name))
    engine.run("import", "-", "hostile", stdin=out.getvalue())
    shown = engine.run("image", "files", "hostile").out
    assert "/\\x1b]0;owned\\x07\n" in shown
    assert "/\\xff\\x0a\n" in shown
    assert "\x1b" not in shown
    with Terminal(engine, "image", "files", "hostile", "--format", "{{.Path}}") as terminal:
        assert terminal.code() == 0
        assert "\\x1b]0;owned\\x07" in terminal.seen
    engine.run("rmi", "hostile")


def test_a_reader_that_leaves_ends_the_list_without_a_word(engine: Daemon) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(5000):
            tar.addfile(tarfile.TarInfo(f"a-rather-long-name-that-fills-pipes/{number}"))
    engine.run("import", "-", "many", stdin=out.getvalue())
    done = subprocess.run(
        ["bash", "-c", f"{WHERRY} image files many | head -n 2"],
        env={**os.environ, "WHERRY_HOST": engine.host},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.count("\n"), done.stderr) == (2, "")
    engine.run("rmi", "many")


def test_what_is_not_there_is_said(engine: Daemon) -> None:
    for arguments, message in (
        (("image", "files", "nope"), "No such image: nope:latest"),
        (("image", "files", "--layer", "9", "bb"), "image bb has no layer 9: its layers are 1 to 1"),
        (("image", "files", "--layer", "0", "bb"), "layers are numbered from 1, the base"),
        (("image", "diff", "bb", "nope"), "No such image: nope:latest"),
        (("image", "layers", "nope"), "No such image: nope:latest"),
    ):
        done = engine.run(*arguments, check=False)
        assert done.code == 1
        assert message in done.err
