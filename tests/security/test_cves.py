"""Attempts at the known holes of container runtimes, from inside real containers.

One test for each mechanism; `docs/security.md` has the table of which CVE is tried where.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import lzma
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import Daemon, Result, busybox_tar
from tests.security.archives import archive_of, member, symlink, tar_with
from tests.security.kernelfiles import writable
from tests.security.test_hostile import Canary, image_with
from tests.system.stopwatch import Stopwatch
from tests.system.talk import UnixConnection, ask
from tests.system.waiting import until

from wherry.kernel import libc
from wherry.runtime import rawcalls

pytestmark = [pytest.mark.root, pytest.mark.slow]
ALONE = ("--net", "none")
RENAME_EXCHANGE, AT_FDCWD = 2, -100
EVIL_LABELS = {
    "io.podman.annotations.privileged": "TRUE",
    "io.podman.annotations.seccomp": "unconfined",
    "io.podman.annotations.label": "disable",
    "io.kubernetes.cri-o.UnifiedCgroup": "x",
    "io.kubernetes.cri-o.userns-mode": "host",
    "io.kubernetes.cri.untrusted-workload": "false",
    "io.container.manager": "libpod",
    "org.systemd.property.TasksMax": "uint64 999999",
    "org.criu.config": "/etc/passwd",
    "run.oci.keep_original_groups": "1",
    "run.oci.hooks.stderr": "/evil",
    "run.oci.mount_context_type": "rootcontext",
    "com.docker.security.seccomp": "unconfined",
    "security.alpha.kubernetes.io/sysctls": "kernel.core_pattern=|/x",
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path / "canary")
    yield canary
    canary.check()


@contextmanager
def held(engine: Daemon, name: str, *options: str, image: str = "bb") -> Iterator[str]:
    """A container that sleeps; its first process."""
    engine.run("run", "-d", "--name", name, *ALONE, *options, image, "sleep", "1000")
    try:
        yield engine.out("inspect", "-f", "{{.State.Pid}}", name)
    finally:
        engine.run("rm", "-fv", name)


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """Somebody swaps two names, again and again."""
    rename = ctypes.CDLL(None).renameat2
    stop = threading.Event()

    def swap() -> None:
        while not stop.wait(0.0005):
            rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        yield
    finally:
        stop.set()
        racer.join()


@contextmanager
def replacing(path: Path, target: Path, waiting: Path) -> Iterator[threading.Event]:
    """Somebody puts a link, made in the directory ``waiting``, in the place of a regular file once there is one; set when that is done."""
    stop, done = threading.Event(), threading.Event()
    link = waiting / "link"
    link.symlink_to(target)

    def replace() -> None:
        while not stop.is_set():
            if path.is_file():
                link.rename(path)
                done.set()
                return

    racer = threading.Thread(target=replace)
    racer.start()
    try:
        yield done
    finally:
        stop.set()
        racer.join()


def built(engine: Daemon, name: str, dockerfile: str) -> None:
    engine.run("build", "-q", "-t", name, "-", stdin=tar_with(member("Dockerfile", data=dockerfile.encode())))


def test_the_hosts_null_device_is_out_of_reach(engine: Daemon) -> None:
    """Ours, found by trying every call: standard input was the host's node, whose mode root in a container could change."""
    before = os.stat("/dev/null")
    spoil = "chmod 640 /proc/self/fd/0; chown 5:5 /proc/self/fd/0; touch -t 200001010000 /proc/self/fd/0"
    try:
        engine.run("run", "--rm", *ALONE, "bb", "sh", "-c", spoil, check=False)
        with held(engine, "nulls"):
            engine.run("exec", "nulls", "sh", "-c", f"{spoil}; rm /dev/null; ln -s /etc/passwd /dev/null")
            shown = engine.out("exec", "nulls", "sh", "-c", f"{spoil}; cat; ls -l /proc/self/fd/0 /etc/passwd")
            assert "pipe:" in shown
            assert "-rw-r--r--" in shown
    finally:
        after = os.stat("/dev/null")
        os.chmod("/dev/null", before.st_mode & 0o7777)
        os.chown("/dev/null", before.st_uid, before.st_gid)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


@pytest.mark.skipif(libc.MACHINE not in rawcalls.MACHINES, reason="the program that asks is for other machine types")
def test_no_keyring_of_the_hosts_is_in_reach(engine: Daemon) -> None:
    """Ours: an exec had the daemon's session keyring; only the filter stood before it."""
    numbers = json.loads((Path(rawcalls.__file__).parent / "syscalls.json").read_text())["tables"][libc.MACHINE]
    sheet = rawcalls.Sheet(libc.MACHINE, numbers)
    sheet.call("keyctl", 0, -3, 0)  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
    engine.run("import", "-", "keys", stdin=image_with(member("asks", data=sheet.program())))
    found = []
    with held(engine, "keys", "--security-opt", "seccomp=unconfined", image="keys"):
        for arguments in (("exec", "keys"), ("run", "--rm", *ALONE, "--security-opt", "seccomp=unconfined", "keys")):
            with (engine.root / "keys").open("w+b") as file:
                engine.pipe(*arguments, "/asks", stdout=file)
                file.seek(0)
                found += sheet.answers(file.read()).calls
    if found[0] == -errno.ENOSYS:
        pytest.skip("this kernel has no keyrings")
    own = ctypes.CDLL(None).syscall(numbers["keyctl"], 0, -3, 0)  # the daemon has it from us
    assert len({*found, own}) == 3
    assert min(found) > 0


def test_a_container_sees_nothing_of_processes_that_enter_it(engine: Daemon) -> None:
    look = (
        "while :; do for p in /proc/[0-9]*; do cat $p/maps $p/environ 2>/dev/null; readlink $p/exe $p/cwd $p/root $p/fd/* 2>/dev/null; "
        "done | tr '\\0' '\\n' | grep -aE 'python|wherry|HOME=' | grep -v HOME=/; echo pass; done"
    )
    engine.run("run", "-d", "--name", "watching", *ALONE, "bb", "sh", "-c", look)
    slow = f"PATH={'x:' * 30_000}/bin"  # where a program is looked for last of all, when its privileges are the container's already
    try:
        until(lambda: "pass" in engine.out("logs", "watching"))
        for _ in range(3):
            engine.run("exec", "-e", slow, "watching", "true")
            engine.run("run", "--rm", *ALONE, "-e", slow, "--pid", "container:watching", "bb", "true")
        seen = engine.out("logs", "watching").split("\n")
    finally:
        engine.run("rm", "-f", "watching")
    assert set(seen) == {"pass"}
    assert len(seen) > 5


def test_a_mount_point_that_is_swapped_leads_nowhere(engine: Daemon, canary: Canary) -> None:
    source = engine.out("volume", "create", "swapped")
    root = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", source))
    (root / "a").mkdir()
    (root / "z").symlink_to(canary.path)
    options = ("-v", "swapped:/v", "-v", f"{canary.path}:/ours:ro", "--tmpfs", "/v/a/b")
    try:
        with exchanging(root / "a", root / "z"):
            for _ in range(3):
                engine.run("run", "--rm", *ALONE, *options, "bb", "true", check=False)
                engine.run("run", "--rm", *ALONE, "-v", "swapped:/v", "-w", "/v/a/new", "bb", "true", check=False)
                canary.check()
    finally:
        engine.run("volume", "rm", "-f", "swapped")


def test_settings_and_read_only_roots_hold_whatever_the_image_has(engine: Daemon, canary: Canary) -> None:
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    fake = [member("fake/sys/kernel/shm_rmid_forced", data=b"fake"), member("fake/self/fd/0", data=b"fake")]
    engine.run("import", "-", "fakes", stdin=image_with(*fake, symlink("dev/null", canary.path / "file"), without=("dev/null",)))
    script = "cat /proc/sys/kernel/shm_rmid_forced; touch /new; echo b >/proc/sysrq-trigger; head -c 1 /proc/keys /proc/kcore; echo end"
    options = ("--rm", *ALONE, "--read-only", "--sysctl", "kernel.shm_rmid_forced=1")
    result = engine.run("run", *options, "fakes", "sh", "-c", script)
    assert result.out.split() == ["1", "end"] or "==>" in result.out
    assert result.err.count("Read-only file system") + result.err.count("Permission denied") + result.err.count("No such file") >= 2
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before


def test_labels_of_an_image_and_long_annotations_change_nothing(engine: Daemon) -> None:
    labels = " ".join(f"{name}={json.dumps(value)}" for name, value in EVIL_LABELS.items())
    built(engine, "labelled", f"FROM bb\nLABEL {labels}\n")
    look = (
        "sh",
        "-c",
        "grep -E 'Cap|NoNew|Secc|Groups' /proc/self/status; grep -o ' /.* - .*' /proc/self/mountinfo | "
        "grep -v 'etc/\\| / '; ls /proc/self/ns",
    )
    plain = engine.out("run", "--rm", *ALONE, "bb", *look)
    assert engine.out("run", "--rm", *ALONE, "labelled", *look) == plain
    annotations = [word for name, value in EVIL_LABELS.items() for word in ("--annotation", f"{name}={value}")]
    assert engine.out("run", "--rm", *ALONE, *annotations, "--annotation", "long=" + "x" * 70_000, "bb", *look) == plain
    status, answer = ask(engine, "POST", "/containers/x/checkpoints", {"CheckpointID": "evil"})
    assert status in (404, 501), answer


def test_what_may_be_written_to_in_proc_and_sys_is_known(engine: Daemon) -> None:
    own = (
        r"/proc/N/(task/N/)?(attr/\w+|autogroup|clear_refs|comm|coredump_filter|gid_map|loginuid|mem|oom_adj|oom_score_adj|projid_map|sched"
        r"|setgroups|timens_offsets|timerslack_ns|uid_map|make-it-fail|fail-nth|net/\S+)"
    )
    approved = re.compile(rf"{own}|/proc/pressure/\w+|/proc/mtrr|/sys/fs/selinux/\S+")  # the last three take a capability besides
    with held(engine, "files") as pid:
        found = writable(int(pid))
    assert "/proc/N/comm" in found
    assert not [path for path in found if not approved.fullmatch(path)]


def test_groups_that_are_denied_stay_denied(engine: Daemon) -> None:
    script = "echo secret >/closed; chmod 604 /closed; chown 0:1500 /closed; exec sleep 1000"
    engine.run("run", "-d", "--name", "denied", *ALONE, "bb", "sh", "-c", script)
    try:
        until(lambda: "0604" in engine.out("exec", "denied", "stat", "-c", "0%a", "/closed"))
        assert engine.run("exec", "-u", "1000:1500", "denied", "cat", "/closed", check=False).code == 1
        assert engine.out("exec", "-u", "1000:7", "denied", "cat", "/closed") == "secret"
        assert engine.out("exec", "-u", "1000:1500", "denied", "grep", "^Groups", "/proc/self/status").split() == ["Groups:", "1500"]
    finally:
        engine.run("rm", "-f", "denied")


def test_a_number_is_never_a_name_and_a_huge_file_is_not_read(engine: Daemon) -> None:
    rows = b"root:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n-1:x:0:0::/:/bin/sh\n+1:x:0:0::/:/bin/sh\n1e3:x:1000:1000::/:/bin/sh\n"
    engine.run("import", "-", "numbers", stdin=image_with(member("etc/passwd", data=rows), without=("etc/passwd",)))
    for user in ("4294967296", "-1", "2147483648", "4294967295", "1000:2147483648", "1000:-1"):
        refused = engine.run("run", "--rm", *ALONE, "-u", user, "numbers", "id", check=False)
        assert refused.code == 125, (user, refused)
        assert "uids and gids must be in range 0-2147483647" in refused.err
    with held(engine, "huge"):
        engine.run(
            "exec",
            "huge",
            "sh",
            "-c",
            "dd if=/dev/null of=/etc/group bs=1 count=0 seek=2G; dd if=/dev/null of=/etc/passwd bs=1 count=0 seek=2G",
        )
        for user, code in (("0:", 0), (":", 0), ("01000", 0), ("1000:", 0), ("1e3", 126), (" 1", 126), ("al", 126)):
            with Stopwatch() as watch:
                result = engine.run("exec", "-u", user, "huge", "id", "-u", check=False)
            assert (result.code != 0) == (code != 0), (user, result)
            assert watch.seconds < 5


def test_no_abstract_socket_of_ours_is_in_reach_and_variables_write_no_file(engine: Daemon) -> None:
    sockets = engine.out("run", "--rm", "--net", "host", "bb", "cat", "/proc/net/unix")
    inodes = {line.split()[6] for line in sockets.split("\n")[1:] if "@" in line}
    assert engine.process is not None
    for pid in os.listdir("/proc"):
        if pid.isdigit() and f"WHERRY_TEST_ROOT={engine.root}".encode() in _read(f"/proc/{pid}/environ").split(b"\0"):
            held_sockets = {_link(f"/proc/{pid}/fd/{fd}") for fd in _list(f"/proc/{pid}/fd")}
            assert not {f"socket:[{inode}]" for inode in inodes} & held_sockets
    home = "/x\nroot2::0:0::/:/bin/sh"
    shown = engine.out(
        "run", "--rm", *ALONE, "-e", f"HOME={home}", "-e", f"HOSTNAME={home}", "bb", "sh", "-c", 'cat /etc/*; echo "=$HOME="'
    )
    assert shown.endswith(f"={home}=")
    assert shown.count("root2") == 1


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def test_a_volume_that_waits_with_links_is_not_filled_through_them(engine: Daemon, canary: Canary) -> None:
    files = [member("data", tarfile.DIRTYPE), member("data/file", data=b"from the image"), member("data/deep/file", data=b"image")]
    engine.run("import", "-", "filling", stdin=image_with(*files))
    engine.run("volume", "create", "waiting")
    root = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", "waiting"))
    (root / "file").symlink_to(canary.path / "file")
    (root / "deep").symlink_to(canary.path)
    engine.run("run", "--rm", *ALONE, "-v", "waiting:/data", "filling", "true")
    engine.run("volume", "rm", "waiting")


def test_what_fills_a_volume_changes_no_file_through_a_link_put_there_meanwhile(engine: Daemon, canary: Canary) -> None:
    """Ours: the mode of each file was set by its name, after its content was written."""
    files = [member("data", tarfile.DIRTYPE), member("data/file", data=bytes(32 << 20), mode=0o6777)]
    engine.run("import", "-", "filling", stdin=image_with(*files))
    root = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", engine.out("volume", "create", "watched")))
    (waiting := root.parent / "elsewhere").mkdir()
    try:
        with replacing(root / "file", canary.path / "file", waiting) as replaced:
            engine.run("run", "--rm", *ALONE, "-v", "watched:/data", "filling", "true", check=False)
            assert replaced.is_set()
    finally:
        engine.run("volume", "rm", "watched")
        engine.run("rmi", "filling")


def test_a_copy_to_the_host_changes_no_file_through_a_link_put_there_meanwhile(engine: Daemon, canary: Canary, tmp_path: Path) -> None:
    """Ours: a container that sees the directory could have any file's mode set by who copies there."""
    (shared := tmp_path / "shared").mkdir()
    (waiting := tmp_path / "waiting").mkdir()
    engine.run("import", "-", "copied", stdin=image_with(member("file", data=bytes(32 << 20), mode=0o777)))
    engine.run("create", "--name", "copied", *ALONE, "copied", "true")
    try:
        with replacing(shared / "file", canary.path / "file", waiting) as replaced:
            engine.run("cp", "copied:/file", str(shared), check=False)
            assert replaced.is_set()
    finally:
        engine.run("rm", "copied")
        engine.run("rmi", "copied")


def test_a_part_of_a_volume_is_never_outside_of_it(engine: Daemon, canary: Canary) -> None:
    root = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", engine.out("volume", "create", "parted")))
    (root / "d").mkdir()
    (root / "d/own").write_text("own\n")
    (root / "out").symlink_to(canary.path)
    (root / "d/up").symlink_to("../../../../../../../../../.." + str(canary.path))
    (root / "in").symlink_to("d")
    try:

        def look(part: str) -> Result:
            mount = f"type=volume,src=parted,dst=/m,volume-subpath={part}"
            return engine.run("run", "--rm", *ALONE, "--mount", mount, "bb", "sh", "-c", "cd /m && ls || cat /m", check=False)

        assert (look("d").out, look("in").out, look("d/own").out) == ("own\nup\n", "own\nup\n", "own\n")
        for part in ("out", "out/file", "d/up", "in/up/file"):
            done = look(part)
            assert (done.out, done.code) == ("", 125)
            assert f"path concatenation escapes the base directory, base: {root}, subpath: {part}" in done.err
        assert f"cannot access path {root}/gone: lstat {root}/gone: no such file or directory" in look("gone").err
        engine.run("create", "--name", "parted", "--mount", "type=volume,src=parted,dst=/m,volume-subpath=d", "bb", "true")
        engine.run("cp", "-", "parted:/m", stdin=tar_with(member("new")))
        engine.run("rm", "parted")
        assert (root / "d/new").exists()
        assert not os.listdir(engine.root / "run/image-mounts")
    finally:
        engine.run("volume", "rm", "-f", "parted")


def test_a_bind_of_a_build_shows_nothing_through_a_hidden_link(engine: Daemon, canary: Canary) -> None:
    """A layer's directory hides a link of the layer below: who looks for that directory in every layer must not follow it."""
    folders = [member(name, tarfile.DIRTYPE, data=b"") for name in ("a", "a/sub")]
    (canary.path.parent / "sub").mkdir()
    (canary.path.parent / "sub/secret").write_text("untouched")
    layers = (busybox_tar(), tar_with(symlink("a", canary.path.parent)), tar_with(*folders, member("a/sub/mine")))
    engine.run("load", stdin=archive_of(*layers))
    try:
        for options in ("", ",rw"):
            line = f"FROM bb\nRUN --mount=type=bind,from=hostile,source=a/sub,target=/x{options} ls /x > /seen\n"
            engine.run("build", "-q", "-t", "seen", "-", stdin=tar_with(member("Dockerfile", data=line.encode())))
            assert engine.out("run", "--rm", *ALONE, "seen", "cat", "/seen") == "mine"
    finally:
        engine.run("rmi", "-f", "hostile", "seen")


def archive(engine: Daemon, method: str, container: str, path: str, body: bytes | None = None) -> bytes:
    connection = UnixConnection(engine.socket_path)
    try:
        connection.request(method, f"/containers/{container}/archive?path={path}", body, {"Content-Type": "application/x-tar"})
        return connection.getresponse().read()
    finally:
        connection.close()


def test_copies_stay_inside_while_names_are_swapped(engine: Daemon, canary: Canary) -> None:
    (canary.path / "secret").write_text("of the host")
    canary.before = canary._state()
    engine.run("volume", "create", "racing")
    root = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", "racing"))
    (root / "a").mkdir()
    (root / "a/secret").write_text("inside")
    (root / "z").symlink_to(canary.path)
    evil = tar_with(member("secret", data=b"evil"), member("new/file"))
    try:
        with held(engine, "racing", "-v", "racing:/v"), exchanging(root / "a", root / "z"):
            for _ in range(25):
                archive(engine, "PUT", "racing", "/v/a", evil)
                for path in ("/v/a/secret", "/v/a/.", "/v"):
                    assert b"of the host" not in archive(engine, "GET", "racing", path)
            canary.check()
            connection = UnixConnection(engine.socket_path)
            connection.request("GET", "/containers/racing/export")
            assert b"of the host" not in connection.getresponse().read()
            connection.close()
    finally:
        engine.run("volume", "rm", "-f", "racing")


NUMBERED = """
import os, signal, sys
wanted = int(sys.argv[1])
with open("/proc/sys/kernel/ns_last_pid") as file:
    before = file.read()
child = 0
while child != wanted:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(wanted - 1))
    if not (child := os.fork()):
        signal.pause()
        os._exit(0)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:  # else others get numbers too that were somebody's just now
    file.write(before)
print("here", flush=True)
sys.stdin.read()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@contextmanager
def numbered(pid: int) -> Iterator[None]:
    """A process of the host's with this number."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", NUMBERED, str(pid)], stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"here\n"
        yield


@contextmanager
def ended_but_not_told(engine: Daemon, name: str) -> Iterator[None]:
    """A container whose program has ended while a client is behind with its output; what was its number is another process's now."""
    engine.run("run", "-d", "--name", name, *ALONE, "--log-driver", "none", "--ipc", "shareable", "bb", "yes")
    pid = int(engine.out("inspect", "-f", "{{.State.Pid}}", name))
    try:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(engine.socket_path)
            deaf.sendall(f"POST /containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            waiting = [0]

            def is_full() -> bool:
                waiting.append(int.from_bytes(fcntl.ioctl(deaf, termios.FIONREAD, bytes(4)), sys.byteorder))
                return waiting[-1] > 100_000 and waiting[-15:] == waiting[-1:] * 15

            until(is_full)
            os.kill(pid, signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{pid}"))
            with numbered(pid):
                assert engine.out("inspect", "-f", "{{.State.Running}} {{.State.Pid}}", name) == f"true {pid}"
                yield
    finally:
        engine.run("rm", "-f", name)


def test_the_number_of_a_container_that_has_ended_names_no_process_of_the_hosts(engine: Daemon, canary: Canary) -> None:
    """Ours: `cp`, and those that join its namespaces, found a container by a number that may be another's since."""
    with ended_but_not_told(engine, "gone"):
        archive(engine, "PUT", "gone", str(canary.path), tar_with(member("new")))
        assert b"untouched" not in archive(engine, "GET", "gone", f"{canary.path}/file")
        for option in ("--net", "--pid", "--ipc"):
            done = engine.run("run", "--rm", option, "container:gone", "bb", "ls", "-l", "/proc/self/ns", check=False)
            assert (done.code, done.out) == (125, "")
        assert engine.run("exec", "gone", "true", check=False).code


def test_nothing_of_an_image_is_ever_run_or_loaded_by_us(engine: Daemon, tmp_path: Path) -> None:
    """Modules of the standard library, resolver libraries, and programs that engines call for help: all in the image, all hostile."""
    pwn = b"#!/bin/sh\necho owned >/pwned\n"
    module = b"open('/pwned', 'w').write('owned')\n"
    places = [path.lstrip("/") for path in (*sys.path, str(Path(__file__).parents[2] / "src")) if path.startswith("/")]
    programs = ("ps", "nsenter", "xz", "unpigz", "gzip", "tar", "zstd", "mount", "runc", "python3", "getent", "newuidmap")
    evil = [member(f"usr/bin/{name}", data=pwn, mode=0o755) for name in programs]
    evil += [
        member(f"{place}/{name}.py", data=module)
        for place in dict.fromkeys(places)
        for name in (
            "pwd",
            "grp",
            "stringprep",
            "sitecustomize",
            "encodings/idna",
            "encodings/utf_16",
            "encodings/__init__",
            "wherry/__init__",
        )
    ]
    evil += [
        member(f"lib/x86_64-linux-gnu/{name}", data=b"\x7fELFevil", mode=0o755) for name in ("libnss_files.so.2", "libnss_compat.so.2")
    ]
    engine.run("import", "-", "trap", stdin=image_with(*evil))
    with held(engine, "trap", image="trap"):
        for text in (b"plain", "näme \ud83d\ude00".encode("utf-8", "surrogatepass")):
            (tmp_path / "in").write_bytes(text)
            engine.run("cp", str(tmp_path / "in"), "trap:/tmp/in")
        engine.run("cp", "trap:/etc/passwd", str(tmp_path / "out"))
        for packed in (lzma.compress(tar_with(member("x"))), tar_with(member("na\u00efve"))):
            archive(engine, "PUT", "trap", "/tmp", packed)
        engine.run("top", "trap")
        engine.run("exec", "-u", "al:extra", "trap", "true")
        engine.run("diff", "trap")
        engine.run("commit", "trap", "trapped")
        recipe = "FROM trapped\nCOPY --chown=al:extra Dockerfile /x\nADD y.tar.xz /y\nUSER al\nRUN true\n"
        context = tar_with(member("Dockerfile", data=recipe.encode()), member("y.tar.xz", data=lzma.compress(tar_with(member("x")))))
        engine.run("build", "-q", "-t", "trapped", "-", stdin=context)
        assert engine.run("exec", "trap", "ls", "/pwned", check=False).code
    assert engine.run("run", "--rm", *ALONE, "trapped", "ls", "/pwned", check=False).code


def test_variables_of_one_request_never_reach_another(engine: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(number: int) -> tuple[int, str]:
        body = {"Image": "bb", "Cmd": ["true"], "Env": [f"MINE=value-{number}", f"ONLY{number}=x"]}
        status, answer = ask(engine, "POST", "/containers/create", body)
        assert status == 201, answer
        return number, answer["Id"]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(40)))
    for number, ident in made:
        _, shown = ask(engine, "GET", f"/containers/{ident}/json")
        variables = {line for line in shown["Config"]["Env"] if not line.startswith("PATH=")}
        assert variables == {f"MINE=value-{number}", f"ONLY{number}=x"}
        ask(engine, "DELETE", f"/containers/{ident}")
    result = engine.run("build", "--no-cache", "--progress", "plain", "-", stdin=tar_with(member("Dockerfile", data=b"FROM bb\nRUN env\n")))
    assert "WHERRY_TEST_ROOT" not in result.out + result.err
