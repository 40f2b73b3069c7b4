"""Bundles become containers: every field read back inside, every failure without a trace."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from tests.bundle.harness import COMMAND, bundle_config, leftovers
from tests.runtime.harness import make_root
from tests.system.waiting import until

from wherry.kernel import cgroup
from wherry.runtime import labels

pytestmark = pytest.mark.root
V2 = cgroup.find().v2 is not None
NO_APPARMOR = "the AppArmor profile x: no such file or directory" if labels.has_apparmor() else "process.apparmorProfile"
MAPS = {
    "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
}


def namespaces(*more: dict[str, str], without: str = "") -> list[dict[str, str]]:
    found = [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup") if kind != without]
    return [*found, *more]


def test_a_life_from_create_to_delete(runtime):
    configuration = bundle_config("sleep", "600")
    configuration["annotations"] = {"org.example.a": "b"}
    pid_file = runtime.place / "pid"
    ident = runtime.create(configuration, "--pid-file", str(pid_file))
    created = runtime.state(ident)
    assert (created["status"], created["annotations"], created["id"]) == ("created", {"org.example.a": "b"}, ident)
    assert created["pid"] == int(pid_file.read_text())
    assert "already exists" in runtime("create", "--bundle", str(runtime.bundle(configuration)), ident, check=False).err
    assert "not stopped: created" in runtime("delete", ident, check=False).err
    runtime("start", ident)
    assert runtime.state(ident)["status"] == "running"
    assert "already running" in runtime("start", ident, check=False).err
    pidfd = os.pidfd_open(created["pid"])
    runtime("kill", ident, "KILL")
    gone(pidfd)
    stopped = runtime.state(ident)
    assert (stopped["status"], stopped["pid"]) == ("stopped", 0)
    assert "container not running" in runtime("kill", ident, check=False).err
    runtime("delete", ident)
    assert f"container does not exist: {ident}" in runtime("state", ident, check=False).err


def gone(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(20000)
    os.close(pidfd)


def test_a_user_namespace_maps_ids_mounts_and_devices(runtime):
    source = runtime.place / "volume"
    source.mkdir(mode=0o700)
    (source / "file").write_text("x")
    configuration = bundle_config(
        "sh", "-c", "cat /proc/self/uid_map; stat -c %u /tmp/file; id -u; echo x > /dev/null; grep ' /dev/null' /proc/mounts | wc -l"
    )
    configuration["linux"] |= {"namespaces": namespaces({"type": "user"}), **MAPS}
    configuration["linux"]["sysctl"] = {}
    configuration["mounts"].append({"destination": "/tmp", "source": str(source), "options": ["bind"], **MAPS})
    configuration["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 5, "hard": 5}]
    assert runtime.run(configuration).out.split() == ["0", "100000", "65536", "0", "0", "1"]


def test_namespaces_joined_by_path_and_one_of_time(runtime):
    first = runtime.create(bundle_config("sleep", "600"))
    pid = runtime.state(first)["pid"]
    joined = [
        {"type": kind, "path": f"/proc/{pid}/ns/{name}"}
        for kind, name in (("network", "net"), ("ipc", "ipc"), ("pid", "pid"), ("uts", "uts"))
    ]
    configuration = bundle_config("sh", "-c", "for n in net ipc pid uts; do readlink /proc/self/ns/$n; done; cat /proc/uptime")
    configuration["linux"]["namespaces"] = [{"type": "mount"}, {"type": "time"}, *joined]
    configuration["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 0}}
    configuration["linux"]["sysctl"] = {}
    configuration.pop("hostname")
    lines = runtime.run(configuration).out.splitlines()
    assert lines[:4] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "ipc", "pid", "uts")]
    assert float(lines[4].split()[0]) > 1000000


def test_a_user_namespace_joined_by_path(runtime):
    configuration = bundle_config("sleep", "600")
    configuration["linux"] |= {"namespaces": namespaces({"type": "user"}), **MAPS}
    configuration["linux"]["sysctl"] = {}
    first = runtime.create(configuration)
    pid = runtime.state(first)["pid"]
    configuration = bundle_config("sh", "-c", "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; ls -ld /proc/1 | wc -l")
    joined = ({"type": "user", "path": f"/proc/{pid}/ns/user"}, {"type": "network", "path": f"/proc/{pid}/ns/net"})
    configuration["linux"]["namespaces"] = namespaces(*joined, without="network")
    configuration["linux"]["sysctl"] = {}
    expected = [os.readlink(f"/proc/{pid}/ns/{one}") for one in ("user", "net")] + ["0", "1"]
    assert runtime.run(configuration).out.split() == expected
    # Podman writes maps also for one that exists
    configuration["linux"] |= {kind: [{"containerID": 0, "hostID": 0, "size": 1}] for kind in ("uidMappings", "gidMappings")}
    assert runtime.run(configuration).out.split() == expected


def test_a_user_namespace_without_root(runtime, tmp_path):
    root = tmp_path / "own"
    root.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    own = dataclasses.replace(runtime, image=make_root(root))
    for path in (root, *root.rglob("*")):
        os.chown(path, 100000, 200000, follow_symlinks=False)
    configuration = bundle_config(
        "sh", "-c", "id -u; id -g; stat -c %u:%g /bin /dev/shm; cat /proc/self/uid_map; touch /dev/shm/x && echo made"
    )
    configuration["process"]["user"] = {"uid": 1000, "gid": 1000}
    configuration["linux"] |= {
        "namespaces": namespaces({"type": "user"}),
        "uidMappings": [{"containerID": 1000, "hostID": 100000, "size": 1}],
        "gidMappings": [{"containerID": 1000, "hostID": 200000, "size": 1}],
        "sysctl": {},
    }
    for one in configuration["mounts"]:
        one["options"] = [option for option in one["options"] if not option.startswith("gid=")]
    assert own.run(configuration).out.split() == ["1000", "1000", "1000:1000", "1000:1000", "1000", "100000", "1", "made"]


def test_places_that_a_link_names_and_nobody_has_are_made_inside(runtime, tmp_path):
    root = tmp_path / "own"
    root.mkdir(mode=0o755)
    own = dataclasses.replace(runtime, image=make_root(root))
    for name, target in (
        *(("etc/resolv.conf", "../run/systemd/resolve/stub.conf"), ("etc/absolute", "/etc/second"), ("etc/second", "/lib/deep/file")),
        *(("etc/over", "../../../../above/dir"), ("etc/loop", "loop")),
    ):
        (root / name).symlink_to(target)
    source = tmp_path / "source"
    source.write_text("told\n")
    configuration = bundle_config(
        "sh", "-c", "cat /etc/resolv.conf /etc/absolute; ls -d /run/systemd/resolve/stub.conf /lib/deep/file /above/dir/new"
    )
    configuration["mounts"] += [
        *({"destination": f"/etc/{name}", "source": str(source), "options": ["bind"]} for name in ("resolv.conf", "absolute")),
        {"destination": "/etc/over/new", "type": "tmpfs", "source": "tmpfs"},
    ]
    assert own.run(configuration).out.split() == ["told", "told", "/above/dir/new", "/lib/deep/file", "/run/systemd/resolve/stub.conf"]
    configuration = bundle_config("true")
    configuration["mounts"].append({"destination": "/etc/loop/x", "type": "tmpfs", "source": "tmpfs"})
    assert "Too many levels of symbolic links" in own.run(configuration, check=False).err


def test_a_relative_source_of_a_bind_mount_is_in_the_bundle(runtime):
    """Source: OCI runtime-spec 1.2, config.md#mounts."""
    configuration = bundle_config("cat", "/mnt/one", "/mnt/two")
    configuration["mounts"] += [
        {"destination": "/mnt/one", "source": "given", "options": ["bind"]},
        {"destination": "/mnt/two", "type": "bind", "source": "./given"},
    ]
    bundle = runtime.bundle(configuration)
    (bundle / "given").write_text("of the bundle\n")
    assert runtime("run", "--bundle", str(bundle), "t-relative").out == "of the bundle\n" * 2


def test_a_tmpfs_that_is_read_only_becomes_so_when_all_is_in_it(runtime):
    configuration = bundle_config("sh", "-c", "cat /mnt/below/file; ls -d /dev/null /dev/pts; touch /mnt/x /dev/x")
    configuration["mounts"] += [
        {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        {"destination": "/mnt/below/file", "source": "/proc/sys/kernel/ostype", "options": ["bind"]},
    ]
    for one in configuration["mounts"]:
        if one["destination"] == "/dev":
            one["options"] = [*one["options"], "ro"]
    done = runtime.run(configuration, check=False)
    assert done.out.split() == ["Linux", "/dev/null", "/dev/pts"]
    assert done.err.count("Read-only file system") == 2


def test_a_tmpfs_without_a_mode_has_that_of_the_directory_below(runtime, tmp_path):
    root = tmp_path / "own"
    root.mkdir(mode=0o755)
    own = dataclasses.replace(runtime, image=make_root(root))
    (root / "data").chmod(0o6710)
    configuration = bundle_config("stat", "-c", "%a", "/data", "/etc", "/new")
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    configuration["mounts"] += [{"destination": "/data", **tmpfs}, {"destination": "/etc", **tmpfs, "options": ["mode=0410"]}]
    configuration["mounts"].append({"destination": "/new", **tmpfs})
    assert own.run(configuration).out.split() == ["6710", "410", "1777"]


def test_six_hooks_get_the_state_their_environment_and_their_namespaces(runtime):
    record = runtime.place / "hooks"
    inside = runtime.image / "tmp" / "hook"
    script = f"echo $KIND $(cat) $(readlink /proc/self/ns/pid) >> {record}"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    configuration = bundle_config("sleep", "600")
    configuration["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"KIND={kind}", "PATH=/bin:/usr/bin"]}] for kind in kinds
    }
    configuration["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/hook"]}]
    ident = runtime.create(configuration)
    pid = runtime.state(ident)["pid"]
    runtime("start", ident)
    runtime("delete", "--force", ident)
    lines = [line.split(" ", 1) for line in record.read_text().splitlines()]
    own = os.readlink("/proc/self/ns/pid")
    found = {kind: (json.loads(text[: text.rindex("}") + 1]), text.split()[-1]) for kind, text in lines}
    assert list(found) == list(kinds)
    assert [found[kind][0]["status"] for kind in kinds] == ["creating"] * 3 + ["running", "stopped"]
    assert {found[kind][0]["pid"] for kind in kinds} == {pid, 0}
    assert [found[kind][1] == own for kind in kinds] == [True, True, False, True, True]
    assert json.loads(inside.read_text())["status"] == "created"
    inside.unlink()


def test_hooks_after_the_end_all_run_whatever_becomes_of_one(runtime):
    record = runtime.place / "hooks"
    configuration = bundle_config("true")
    scripts = ("echo because >&2; exit 3", f"echo called >> {record}")
    configuration["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]} for script in scripts]}
    done = runtime.run(configuration)
    assert "error running poststop hook /bin/sh: exit status 3, stderr: because" in done.err
    assert record.read_text() == "called\n"


def test_capabilities_that_nobody_knows_are_told_and_left_out(runtime):
    configuration = bundle_config("grep", "CapBnd", "/proc/self/status")
    usual = runtime.run(configuration).out
    configuration["process"]["capabilities"]["bounding"].append("CAP_TEST")
    done = runtime.run(configuration)
    assert (done.out, "ignored, this system does not know them: CAP_TEST" in done.err) == (usual, True)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_hook_that_fails_ends_the_container(runtime, kind):
    configuration = bundle_config("sleep", "600")
    configuration["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]}
    done = runtime.run(configuration, check=False)
    assert (done.code, f"error running {kind} hook /bin/sh: exit status 3, stderr: because" in done.err) == (1, True), done.err
    assert leftovers(runtime.place) == []


def test_a_hook_has_its_time(runtime):
    configuration = bundle_config("true")
    configuration["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    assert "not done after 1 s" in runtime.run(configuration, check=False).err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"process": {"args": ["/nope"], "cwd": "/"}}, 'exec: "/nope": stat /nope: no such file'),
        ({"process": {"args": ["true"], "cwd": "/etc/plain/x"}}, "chdir to cwd"),
        (
            {"process": {"args": ["true"], "cwd": "/", "rlimits": [{"type": "RLIMIT_FLY", "soft": 1, "hard": 1}]}},
            "RLIMIT_FLY is not a limit",
        ),
        ({"process": {"args": ["true"], "cwd": "/", "apparmorProfile": "x"}}, NO_APPARMOR),
        ({"process": {"args": ["true"], "cwd": "/", "selinuxLabel": "x"}}, "process.selinuxLabel"),
        ({"process": {"args": ["true"], "cwd": "x"}}, "process.cwd must be an absolute path"),
        ({"process": {"args": [], "cwd": "/"}}, "process.args must not be empty"),
        ({"ociVersion": "2.0.0"}, "ociVersion '2.0.0' is not supported"),
        ({"linux": {"intelRdt": {"closID": "x"}}}, "linux.intelRdt is not supported"),
        ({"linux": {"memoryPolicy": {"mode": "x"}}}, "linux.memoryPolicy is not supported"),
        ({"linux": {"netDevices": {"eth0": {}}}}, "linux.netDevices is not supported"),
        ({"linux": {"mountLabel": "x"}}, "linux.mountLabel"),
        ({"linux": {"personality": {"domain": "LINUX", "flags": ["X"]}}}, "linux.personality"),
        ({"linux": {"rootfsPropagation": "odd"}}, "linux.rootfsPropagation odd"),
        (
            {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]}}},
            "SCMP_ACT_NOTIFY",
        ),
        ({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}}}, "SECCOMP_FILTER_FLAG_X is not"),
        ({"linux": {"sysctl": {"kernel.panic": "1"}}}, '"kernel.panic" is not in a separate kernel namespace'),
        ({"linux": {"resources": {"blockIO": {"weight": 7777}}}}, "io.weight" if V2 else "blkio."),
        (
            {"linux": {"resources": {"unified": {"../cpu.idle": "1"}}}},
            "../cpu.idle is not the name of a file" if V2 else "linux.resources.unified needs cgroup v2",
        ),
        ({"linux": {"resources": {"rdma": {"mlx5_1": {"hcaHandles": 3}}}}}, "rdma"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/nope"}]}}, "linux.namespaces: network: /nope"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/ipc"}]}}, "/ns/ipc: Invalid argument"),
        ({"linux": {"maskedPaths": ["data"]}}, "linux.maskedPaths: 'data' is not an absolute path"),
        ({"linux": {"devices": [{"path": "/dev/x", "type": "z"}]}}, "linux.devices: /dev/x: 'z' is not a type of device"),
        ({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1}]}}, "/dev/x has no major or minor number"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "a new mount namespace"),
        ({"mounts": [{"destination": "/mnt", "source": "/nope", "options": ["bind"]}]}, "No such file or directory: /nope"),
        ({"mounts": [{"destination": "/mnt", "type": "nofs", "source": "x"}]}, "mount nofs"),
        ({"mounts": [{"destination": "/mnt/..", "source": "/etc", "options": ["bind"]}]}, "nothing can be mounted on the root"),
        ({"mounts": [{"destination": "/mnt", "type": "tmpfs", "options": ["wrong=1"]}]}, "wrong"),
        ({"mounts": [{"destination": "/mnt", "source": "/etc", "options": ["bind", "wrong=1"]}]}, "cannot have the option wrong"),
        ({"mounts": [{"destination": "/mnt", "type": "cgroup", "source": "x"}]}, "only one of type cgroup"),
        ({"process": {"args": ["true"], "cwd": "/", "env": ["A=b", "=c"]}}, "process.env: '=c' is not NAME=VALUE"),
        ({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}}}, "architecture SCMP_ARCH_Z80"),
        (
            {
                "linux": {
                    "seccomp": {
                        "defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [
                            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}
                        ],
                    }
                }
            },
            "no argument 9",
        ),
        ({"vm": {"kernel": {"path": "/x"}}}, "vm is not supported"),
        ({"root": {"path": "x", "readonly": False}, "hostname": "x", "linux": {"namespaces": [{"type": "mount"}]}}, "uts namespace"),
    ],
)
def test_a_failed_create_names_the_field_and_leaves_nothing(runtime, change, words):
    configuration = bundle_config("true")
    for key, value in change.items():
        if key == "linux":
            configuration["linux"].update(value)
            if "namespaces" in value and "uts" not in words:
                configuration["linux"]["sysctl"] = {}
                configuration.pop("hostname", None)
        elif key == "mounts":
            configuration["mounts"] += value
        else:
            configuration[key] = value
    bundle = runtime.bundle(configuration)
    done = runtime("create", "--bundle", str(bundle), "t-bad", check=False)
    assert (done.code, words in done.err) == (1, True), done.err
    assert leftovers(runtime.place) == []


def test_a_terminal_goes_to_the_console_socket(runtime):
    configuration = bundle_config(
        "sh", "-c", "stty size; read line; echo got $line", terminal=True, consoleSize={"height": 30, "width": 90}
    )
    path = runtime.place / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        ident = runtime.create(configuration, "--console-socket", str(path))
        connection = listener.accept()[0]
        with connection:
            fds = array.array("i")
            for _, _, data in connection.recvmsg(100, socket.CMSG_SPACE(4))[1]:
                fds.frombytes(data)
    runtime("start", ident)
    with os.fdopen(fds[0], "r+b", buffering=0) as master:
        assert stat.S_ISCHR(os.fstat(master.fileno()).st_mode)
        master.write(b"word\n")
        data = b""
        while b"got word" not in data:
            data += master.read(100)
    assert data.startswith(b"word") or b"30 90" in data
    done = runtime("create", "--bundle", str(runtime.bundle(configuration)), "t-tty", check=False)
    assert "without setting console socket" in done.err


def test_descriptors_of_systemd_are_the_programs_and_it_is_told(runtime):
    configuration = bundle_config("sh", "-c", "cat <&3; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd")
    read, write = os.pipe()
    os.write(write, b"passed ")
    os.close(write)
    words = [*COMMAND, "--root", str(runtime.place / "state"), "run", "--bundle", str(runtime.bundle(configuration)), "t-listen"]
    script = 'exec 3<&$0 4<&$0; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, str(read), *words],
        pass_fds=[read],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    os.close(read)
    assert done.stdout.split() == ["passed", "1", "1", "0", "1", "2", "3", "4"]  # of which ls has opened one
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    assert "LISTEN" not in runtime("exec", ident, "env").out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_that_the_caller_closed_are_the_null_device(runtime, tmp_path, closed):
    root = tmp_path / "own"
    root.mkdir(mode=0o755)
    own = dataclasses.replace(runtime, image=make_root(root))
    configuration = bundle_config("sh", "-c", "for n in 0 1 2; do readlink /proc/$$/fd/$n; done > /found; ls /proc/$$/fd | wc -l >> /found")
    words = [*COMMAND, "--root", str(own.place / "state"), "run", "--bundle", str(own.bundle(configuration)), "t-closed"]
    done = subprocess.run(["sh", "-c", f'"$@" </dev/null >/dev/null 2>/dev/null {closed}', "sh", *words], timeout=60, check=False)
    assert done.returncode == 0
    found = (root / "found").read_text().split()
    assert (found[0], found[2]) == ("/dev/null", "/dev/null")
    assert len(found) == 4


def test_descriptors_are_passed_on_when_they_are_open(runtime):
    configuration = bundle_config("sh", "-c", "ls /proc/self/fd | wc -l; cat <&4")
    readable, writable = os.pipe()
    os.write(writable, b"passed")
    os.close(writable)
    three, four = os.open("/dev/null", os.O_RDONLY), readable
    bundle = str(runtime.bundle(configuration))
    script = f'exec "$0" "$@" 3<&{three} 4<&{four} {three}<&- {four}<&-'
    command = [
        "bash",
        "-c",
        script,
        *COMMAND,
        "--root",
        str(runtime.place / "state"),
        "run",
        "--preserve-fds",
        "2",
        "--bundle",
        bundle,
        "t-fds",
    ]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=(three, four), timeout=60, check=False)
    assert done.stdout.endswith("passed"), done.stderr
    os.close(three)
    os.close(four)
    assert "unable to stat preserved-fd" in runtime.run(configuration, "--preserve-fds", "9", check=False).err


def test_a_container_whose_creator_dies_ends_with_it(runtime):
    configuration = bundle_config("true")
    fifo = runtime.place / "fifo"
    os.mkfifo(fifo)
    configuration["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo $PPID > {fifo}; read x < {fifo}"]}]}
    command = [*COMMAND, "--root", str(runtime.place / "state"), "create", "--bundle", str(runtime.bundle(configuration)), "t-killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with fifo.open() as file:
            assert int(file.read()) == process.pid
        first = runtime.place / "state/t-killed/state.json"
        pidfd = os.pidfd_open(json.loads(first.read_text())["pid"])
        process.send_signal(signal.SIGKILL)
    gone(pidfd)
    fifo.write_text("x")
    assert runtime.state("t-killed")["status"] == "stopped"
    runtime("delete", "t-killed")


def test_a_created_container_does_not_keep_its_dead_creators_lock(runtime):
    path = runtime.place / "full"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        answer = 0
        while answer == 0:  # until a connect has to wait
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            answer = client.connect_ex(str(path))
        bundle = str(runtime.bundle(bundle_config("sleep", "600")))
        command = [*COMMAND, "--root", str(runtime.place / "state"), "create", "--pidfd-socket", str(path), "--bundle", bundle, "t-locked"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().split()[0] in ("42", "203"))  # connect
            process.kill()
    assert runtime.state("t-locked")["status"] == "created"
    runtime("delete", "--force", "t-locked")


def test_root_and_mounts_propagate_as_they_are_told(runtime):
    script = "grep -E ' / / | /mnt ' /proc/self/mountinfo"
    configuration = bundle_config("sh", "-c", "cat /proc/self/mountinfo")
    configuration["linux"]["rootfsPropagation"] = "shared"
    configuration["mounts"].append(
        {"destination": "/mnt", "type": "tmpfs", "source": "t", "options": ["unbindable", "nosymfollow", "noatime"]}
    )
    lines = [line.split() for line in runtime.run(configuration).out.splitlines()]
    root = next(line for line in lines if line[4] == "/")
    own = next(line for line in lines if line[4] == "/mnt")
    assert any(word.startswith("shared:") for word in root), script
    assert "unbindable" in own
    assert {"noatime", "nosymfollow"} <= set(own[5].split(","))


@pytest.mark.skipif(cgroup.find().v2 is not None, reason="cgroup v2 takes no directory for others' mounts")
def test_what_is_mounted_among_the_groups_is_there_and_they_are_read_only(runtime):
    """Podman's ``--systemd=always``."""
    configuration = bundle_config(
        "sh", "-c", "touch /sys/fs/cgroup/own/file && ls /sys/fs/cgroup/own; mkdir /sys/fs/cgroup/more || echo closed"
    )
    configuration["mounts"].append({"destination": "/sys/fs/cgroup/own", "type": "tmpfs", "source": "t", "options": ["rw", ""]})
    assert runtime.run(configuration).out.split() == ["file", "closed"]


def test_without_pivot_the_host_stays_outside(runtime):
    configuration = bundle_config("sh", "-c", "ls /; cd /; cd ..; pwd; cat /etc/passwd | head -1")
    out = runtime.run(configuration, "--no-pivot", "--no-new-keyring").out
    assert "data" in out
    assert out.endswith("root:x:0:0:root:/root:/bin/sh\n")


def test_a_relative_group_and_device_rules(runtime):
    configuration = bundle_config(
        "sh", "-c", "cat /proc/self/cgroup | head -1; echo > /dev/null && echo null; mknod /tmp/x c 10 200 && cat /tmp/x; rm /tmp/x"
    )
    configuration["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 33}, "cpu": {"shares": 77}}
    done = runtime.run(configuration)
    assert "null" in done.out
    assert "Operation not permitted" in done.err


@pytest.mark.parametrize(
    "user", [{"uid": 0, "gid": 2**32 - 1}, {"uid": 2**32 - 1, "gid": 0}, {"uid": 5, "gid": 5, "additionalGids": [2**31]}]
)
def test_an_id_that_the_kernel_would_not_set_is_refused(runtime, user):
    """2**32 - 1 is its word for leaving an id as it is: that of root."""
    assert "uids and gids must be in range 0-2147483647" in runtime.run(bundle_config("id", user=user), check=False).err


def test_state_outlives_a_changed_bundle(runtime):
    configuration = bundle_config("sleep", "600")
    ident = runtime.create(configuration)
    Path(runtime.state(ident)["bundle"], "config.json").unlink()
    runtime("start", ident)
    assert runtime("exec", ident, "echo", "on").out == "on\n"
