"""`wherry-runtime` under those who call OCI runtimes: Podman with conmon, containerd with its shim.

They live in a tree of their own, so this Python and this source come along in a directory below /tmp.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compat import peers
from tests.runtime.harness import make_root

import wherry

pytestmark = [peers.needed, pytest.mark.root, pytest.mark.slow]
SOURCE = Path(wherry.__file__).parents[1]
INTERPRETER = Path("/usr/bin/python3.11")
CONTAINERD = """version = 3
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
address = "{place}/c.sock"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with ``runtime``, the command, and an image's tree in ``rootfs``."""
    if not INTERPRETER.exists():
        pytest.skip("needs Debian's Python, to take along")
    directory = Path(tempfile.mkdtemp(prefix="wherry-runtime-peers-", dir="/tmp"))
    libraries = directory / "libs"
    libraries.mkdir()
    standard = Path(f"/usr/lib/{INTERPRETER.name}")
    shutil.copytree(
        standard, directory / "lib" / standard.name, ignore=shutil.ignore_patterns("test", "idlelib", "lib2to3", "pydoc_data", "ensurepip")
    )
    shutil.copytree(SOURCE / "wherry", directory / "src" / "wherry", ignore=shutil.ignore_patterns("web"))
    extensions = [str(one) for one in (standard / "lib-dynload").glob("_ctypes.*.so")]
    listed = subprocess.run(["ldd", str(INTERPRETER), *extensions], capture_output=True, text=True, check=True).stdout
    for library in set(re.findall(r"\s(/lib\S+\.so\S*)", listed)):
        shutil.copy(library, libraries)
    loader = next(libraries.glob("ld-*"))
    shutil.copy(INTERPRETER, directory / "python")
    command = directory / "runtime"
    command.write_text(
        f"#!/bin/sh\nexport PYTHONHOME={directory} PYTHONPATH={directory}/src\n"
        f'exec {loader} --library-path {libraries} {directory}/python -m wherry.bundle.main --root {directory}/states "$@"\n'
    )
    command.chmod(0o755)
    (directory / "rootfs").mkdir()
    make_root(directory / "rootfs")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def inside(script: str) -> str:
    """What a shell prints in the peers' tree, in one mount namespace for all of it."""
    done = subprocess.run([str(peers.PEERS), "in", "sh", "-c", script], capture_output=True, text=True, timeout=100, check=False)
    return done.stdout + "".join(f"stderr: {line}\n" for line in done.stderr.splitlines())


def test_podman_lives_a_containers_life_with_it(place):
    podman = f"podman --root {place}/pod --runroot {place}/pod-run --storage-driver vfs --runtime {place}/runtime"
    out = inside(
        f"""tar -C {place}/rootfs -cf - . | {podman} import - bb >/dev/null 2>&1
        {podman} run --rm --network none bb sh -c 'echo ran; exit 5'; echo code $?
        {podman} run --rm --network none bb nope; echo code $?
        {podman} run -d --name w --network none bb sleep 600 >/dev/null
        {podman} exec w sh -c 'echo executed; exit 4'; echo code $?
        {podman} exec -t w tty
        {podman} pause w; {podman} ps --format '{{{{.Status}}}}'; {podman} unpause w
        {podman} update --memory 60m w >/dev/null && {podman} stats --no-stream --format '{{{{.MemLimit}}}}' w
        {podman} top w pid comm
        {podman} stop -t 0 w; {podman} inspect -f '{{{{.State.ExitCode}}}}' w
        {podman} start w; {podman} kill w; {podman} wait w; {podman} rm w
        {podman} ps -aq; ls {place}/states; {podman} rmi -f bb >/dev/null"""
    )
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == ["ran", "code 5"], out
    assert 'exec: "nope": executable file not found in $PATH' in out
    assert "code 127" in lines
    assert lines[lines.index("executed") :][:3] == ["executed", "code 4", "/dev/pts/0"], out
    assert "62914560" in lines
    assert "1 sleep" in lines, out
    assert [line for line in lines if not line.startswith("stderr")][-6:] == ["w", "137", "w", "w", "137", "w"], out


def test_podmans_pods_share_what_they_say(place):
    """Users too, for which Podman writes maps beside the path; and a read-only tmpfs has what is mounted in it."""
    podman = f"podman --root {place}/pod --runroot {place}/pod-run --storage-driver vfs --runtime {place}/runtime"
    out = inside(
        f"""tar -C {place}/rootfs -cf - . | {podman} import - bb >/dev/null 2>&1
        {podman} pod create --name pp --infra-image bb --infra-command 'sleep 1000' --share net,ipc,uts,pid --network none \
            --uidmap 0:100000:65536 --gidmap 0:100000:65536 >/dev/null
        {podman} run --rm --pod pp bb sh -c 'cat /proc/self/uid_map; id -u; touch /x; stat -c %u /x'
        {podman} run -d --pod pp --name a bb sleep 500 >/dev/null; {podman} exec --user 1000:5 a id
        {podman} pod top pp comm | sort | uniq -c
        {podman} pod pause pp >/dev/null; {podman} pod ps --format '{{{{.Status}}}}'; {podman} pod unpause pp >/dev/null
        {podman} pod stop -t 0 pp >/dev/null; {podman} pod start pp >/dev/null; {podman} pod kill pp >/dev/null
        {podman} pod rm -f -t 0 pp >/dev/null
        {podman} run --rm --network none --tmpfs /data:ro -v {place}/rootfs/data:/data/inner bb sh -c 'ls /data/inner; touch /data/x'
        {podman} ps -aq; ls {place}/states; {podman} rmi -f bb >/dev/null"""
    )
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:4] == ["0 100000 65536", "0", "0", "uid=1000(al) gid=5 groups=5"], out
    assert "2 sleep" in lines, out
    assert "Paused" in lines, out
    assert lines[lines.index("Paused") + 1] == "file", out
    assert "stderr: touch: /data/x: Read-only file system" in lines, out


def test_containerd_lives_a_containers_life_with_it(place):
    (place / "containerd.toml").write_text(CONTAINERD.format(place=f"{place}/ctrd"))
    ctr = f"ctr -a {place}/ctrd/c.sock -n wherry"
    flags = f"--runc-binary {place}/runtime --snapshotter native"
    podman = f"podman --root {place}/pod --runroot {place}/pod-run --storage-driver vfs"
    out = inside(
        f"""mkdir -p {place}/ctrd; tar -C {place}/rootfs -cf - . | {podman} import - bb >/dev/null 2>&1
        {podman} save -o {place}/bb.tar bb >/dev/null 2>&1; {podman} rmi -f bb >/dev/null
        containerd -c {place}/containerd.toml >{place}/ctrd/log 2>&1 & daemon=$!
        until [ -S {place}/ctrd/c.sock ]; do sleep 0.05; done
        {ctr} images import {place}/bb.tar >/dev/null; image=$({ctr} images ls -q)
        {ctr} run --rm {flags} $image t1 sh -c 'echo ran; exit 6'; echo code $?
        {ctr} run --rm {flags} $image t2 nope; echo code $?
        {ctr} run -d {flags} $image t3 sleep 600
        {ctr} tasks exec --exec-id e1 t3 sh -c 'echo executed; exit 9'; echo code $?
        {ctr} tasks pause t3; {ctr} tasks ls; {ctr} tasks resume t3
        {ctr} tasks ps t3 | wc -l
        {ctr} tasks rm -f t3 2>/dev/null; {ctr} containers rm t3; {ctr} containers ls -q; ls {place}/states
        kill $daemon; wait $daemon"""
    )
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == ["ran", "code 6"], out
    assert 'create failed: unable to start container process: exec: "nope": executable file not found in $PATH' in out
    assert lines[lines.index("executed") :][:2] == ["executed", "code 9"], out
    assert any(line.startswith("t3 ") and line.endswith("PAUSED") for line in lines), out
    assert [line for line in lines if not line.startswith("stderr")][-1] == "2", out


def test_state_features_and_spec_have_runcs_shape(place):
    found = {}
    for name, command in (("runc", f"runc --root {place}/runc"), ("ours", f"{place}/runtime")):
        bundle = place / f"bundle-{name}"
        bundle.mkdir()
        found[name] = [json.loads(inside(f"{command} features").split("\nstderr")[0])]
        inside(f"cd {bundle} && {command} spec")
        config = json.loads((bundle / "config.json").read_text())
        found[name].append(config)
        config = json.loads(json.dumps(config))
        config["process"] |= {"terminal": False, "args": ["sleep", "600"]}
        config["root"]["path"] = f"{place}/rootfs"
        (bundle / "config.json").write_text(json.dumps(config))
        ident = f"wherry-peers-{os.getpid()}"
        out = inside(
            f"cd {bundle} && {command} create {ident} </dev/null >/dev/null 2>&1; {command} state {ident}; {command} delete -f {ident}"
        )
        found[name].append(json.loads(out.split("\nstderr")[0]))
    runc, ours = found["runc"], found["ours"]
    assert set(ours[0]) == set(runc[0]) - {"annotations", "potentiallyUnsafeConfigAnnotations"}
    assert {**ours[0]["linux"], "x": 0}.keys() >= runc[0]["linux"].keys()
    unknown = set(runc[0]["mountOptions"]) - set(ours[0]["mountOptions"])
    assert unknown <= {"remount", "iversion", "noiversion"}, unknown
    assert {**shape(ours[1]), "mounts": 0} == {**shape(runc[1]), "mounts": 0}
    assert set(ours[2]) == set(runc[2])
    assert ours[2]["status"] == runc[2]["status"] == "created"


def shape(value: Any) -> Any:
    """The keys of a document, all the way down; lists by their first entry."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__
