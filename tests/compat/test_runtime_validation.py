"""What the validation suite of opencontainers/runtime-tools asserts, group by group: each test names the suite's programs it stands for.

Those compare a container with its config from inside (``runtimetest``) and from outside. Here a shell tells what it sees. Where the
specification has moved on since, `docs/runtime-command.md` says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import select
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.bundle.harness import Runtime, bundle_config
from tests.runtime.harness import make_root
from tests.system.waiting import until

from wherry.kernel import cgroup, credentials

pytestmark = pytest.mark.root
SHELL = "/bin/sh"


@pytest.fixture
def own(runtime: Runtime) -> Runtime:
    """A runtime whose bundles have a root that this test may write in."""
    root = runtime.place / "rootfs"
    root.mkdir()
    root.chmod(0o755)
    return dataclasses.replace(runtime, image=make_root(root))


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": SHELL, "args": ["sh", "-c", script], **more}


def await_end(runtime: Runtime, ident: str) -> None:
    until(lambda: runtime.state(ident)["status"] == "stopped")


def live(runtime: Runtime, configuration: dict[str, Any]) -> None:
    """From create to delete, as most programs of the suite do."""
    ident = runtime.create(configuration)
    runtime("start", ident)
    await_end(runtime, ident)
    runtime("delete", ident)


def status_of(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


# -- operations


def test_create(runtime: Runtime) -> None:
    """create: an id, which nobody else has."""
    configuration = bundle_config("ls")
    assert runtime("create", "--bundle", str(runtime.bundle(configuration)), check=False).code
    ident = runtime.create(configuration)
    assert runtime.state(ident)["id"] == ident
    assert runtime("create", "--bundle", str(runtime.bundle(configuration)), ident, check=False).code
    assert runtime.state(ident)["status"] == "created"


def test_start(own: Runtime) -> None:
    """start: the program runs then, once, and only that of a created container."""
    output = own.image / "output"
    assert own("start", check=False).code
    assert own("start", "nobody", check=False).code
    ident = own.create(bundle_config("sh", "-c", "echo process called >> /output"))
    assert not output.exists()
    own("start", ident)
    await_end(own, ident)
    assert output.read_text() == "process called\n"
    assert own("start", ident, check=False).code
    assert output.read_text() == "process called\n"
    own("delete", ident)
    without = bundle_config("true")
    del without["process"]
    assert "process is missing" in own("create", "--bundle", str(own.bundle(without)), "unborn", check=False).err


def test_state(runtime: Runtime) -> None:
    """state, and the pattern that the suite's every look at it checks."""
    assert runtime("state", check=False).code
    assert runtime("state", "nobody", check=False).code
    configuration = bundle_config("true")
    directory = runtime.bundle(configuration)
    runtime("create", "--bundle", str(directory), "one")
    found = runtime.state("one")
    assert {"ociVersion": "1.2.0", "id": "one", "status": "created", "bundle": str(directory)}.items() <= found.items()
    assert Path(f"/proc/{found['pid']}").exists()


def test_delete(runtime: Runtime) -> None:
    """delete: without an id, of what is not there, and of what has not stopped, is an error and nothing more."""
    assert runtime("delete", check=False).code
    assert runtime("delete", "nobody", check=False).code
    ident = runtime.create(bundle_config("sleep", "600"))
    for status in ("created", "running"):
        before = runtime.state(ident)
        assert before["status"] == status
        assert runtime("delete", ident, check=False).code
        assert runtime.state(ident) == before
        if status == "created":
            runtime("start", ident)
    runtime("kill", ident, "KILL")
    await_end(runtime, ident)
    runtime("delete", ident)
    assert runtime("state", ident, check=False).code


def test_delete_resources_and_no_others(runtime: Runtime) -> None:
    """delete_resources, delete_only_create_resources: its group goes, one that it was moved to by others stays."""
    groups = cgroup.find()
    other = Path(groups.directory("pids", f"/wherry-test-bundle-{os.getpid()}-other") or "")
    other.mkdir()
    try:
        configuration = bundle_config("true")
        configuration["linux"]["resources"]["pids"] = {"limit": 1000}
        ident = runtime.create(configuration)
        group = Path(groups.directory("pids", configuration["linux"]["cgroupsPath"]) or "")
        assert (group / "pids.max").read_text() == "1000\n"
        (other / "cgroup.procs").write_text(str(runtime.state(ident)["pid"]))
        runtime("start", ident)
        await_end(runtime, ident)
        runtime("delete", ident)
        assert (group.exists(), other.exists()) == (False, True)
    finally:
        other.rmdir()


def test_kill_and_its_signals(own: Runtime) -> None:
    """kill, killsig, kill_no_effect: the signal arrives; no id, nobody and a stopped container are errors without effect."""
    assert own("kill", check=False).code
    assert own("kill", "nobody", "KILL", check=False).code
    for name in ("TERM", "USR1", "USR2"):
        script = f"trap 'touch /{name}; exit' {name}; touch /ready-{name}; while :; do sleep 0.05; done"
        ident = own.create(bundle_config("sh", "-c", script))
        own("start", ident)
        until((own.image / f"ready-{name}").exists)
        own("kill", ident, name)
        await_end(own, ident)
        assert (own.image / name).exists()
        before = own.state(ident)
        assert own("kill", ident, "KILL", check=False).code
        assert own.state(ident) == before
        own("delete", ident)
    ident = own.create(bundle_config("sleep", "600"))
    own("kill", ident, "KILL")  # of a created one
    await_end(own, ident)


def test_pidfile(runtime: Runtime) -> None:
    """pidfile."""
    path = runtime.place / "pidfile"
    ident = runtime.create(bundle_config("true"), "--pid-file", str(path))
    assert path.read_text() == str(runtime.state(ident)["pid"])


def test_config_updates_without_affect(own: Runtime) -> None:
    """config_updates_without_affect."""
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj /proc/interrupts; ulimit -n; touch /proc/fs/x; echo end"
    configuration = bundle_config("sh", "-c", f"{{ {script}; }} > /output 2>&1", oomScoreAdj=100)
    configuration["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}]
    configuration["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    configuration["linux"]["rootfsPropagation"] = "shared"
    ident = own.create(configuration)
    Path(own.state(ident)["bundle"], "config.json").write_text('{"ociVersion": "1.0.0"}')
    own("start", ident)
    await_end(own, ident)
    lines = (own.image / "output").read_text().splitlines()
    assert lines[:3] == ["1", "100", "1024"]
    assert lines[-1] == "end"
    assert "touch: /proc/fs/x" in lines[3]


def test_misc_props(runtime: Runtime) -> None:
    """misc_props: what is not known is no error, what is not valid is."""
    configuration = bundle_config("true")
    live(runtime, {**configuration, "annotations": {"org.nobody.knows": ""}})
    live(runtime, {**configuration, "unknown": "unknown"})
    assert "ociVersion" in runtime.run({**configuration, "ociVersion": "invalid"}, check=False).err


# -- hooks


def test_hooks_in_order_and_in_time(own: Runtime) -> None:
    """hooks, prestart, poststart, poststop: in the order of the list, before and after the program and the container's end."""
    record = own.image / "output"
    configuration = bundle_config("sh", "-c", "echo process >> /output; sleep 600")
    configuration["hooks"] = {
        kind: [hook(f"echo {kind}1 >> {record}"), hook(f"echo {kind}2 >> {record}")] for kind in ("prestart", "poststart", "poststop")
    }
    ident = own.create(configuration)
    expected = ["prestart1", "prestart2"]
    assert record.read_text().split() == expected
    own("start", ident)
    until(lambda: "process" in record.read_text() and "poststart2" in record.read_text())
    assert sorted(record.read_text().split()[2:]) == ["poststart1", "poststart2", "process"]
    assert [one for one in record.read_text().split() if one != "process"] == [*expected, "poststart1", "poststart2"]
    own("kill", ident, "KILL")
    await_end(own, ident)
    assert "poststop" not in record.read_text()
    own("delete", ident)
    assert record.read_text().split()[5:] == ["poststop1", "poststop2"]


def test_hooks_stdin(runtime: Runtime) -> None:
    """hooks_stdin: the state, on standard input."""
    kinds = {"prestart": "creating", "poststart": "running", "poststop": "stopped"}
    configuration = bundle_config("true")
    configuration["annotations"] = {"org.opencontainers.runtime-tools": "hook stdin test"}
    configuration["hooks"] = {kind: [hook(f"cat > {runtime.place / kind}", timeout=5)] for kind in kinds}
    ident = runtime.create(configuration)
    created = runtime.state(ident)
    runtime("start", ident)
    await_end(runtime, ident)
    runtime("delete", ident)
    for kind, status in kinds.items():
        found = json.loads((runtime.place / kind).read_text())
        assert found == {
            **{key: created[key] for key in ("ociVersion", "id", "bundle", "annotations")},
            "status": status,
            "pid": 0 if kind == "poststop" else created["pid"],
        }


def test_prestart_fail(own: Runtime) -> None:
    """prestart_fail: an error, no program, no container."""
    configuration = bundle_config("touch", "/output")
    configuration["hooks"] = {"prestart": [hook("exit 1")]}
    assert own("create", "--bundle", str(own.bundle(configuration)), "one", check=False).code
    assert own("state", "one", check=False).code
    assert not (own.image / "output").exists()


def test_poststart_fail(own: Runtime) -> None:
    """poststart_fail, of the specification from 1.1 on: an error, and the container is stopped."""
    configuration = bundle_config("sleep", "600")
    configuration["hooks"] = {"poststart": [hook("exit 1"), hook(f"touch {own.image / 'second'}")]}
    ident = own.create(configuration)
    assert own("start", ident, check=False).code
    await_end(own, ident)
    assert not (own.image / "second").exists()


def test_poststop_fail(own: Runtime) -> None:
    """poststop_fail: told, and the rest goes on."""
    configuration = bundle_config("true")
    configuration["hooks"] = {"poststop": [hook("exit 1"), hook(f"echo post-stop called >> {own.image / 'output'}")]}
    live(own, configuration)
    assert (own.image / "output").read_text() == "post-stop called\n"


# -- the program and its root


def test_process(own: Runtime) -> None:
    """process, linux_process, default: directory, environment, words, no new privileges."""
    (own.image / "test").mkdir()
    script = "pwd; echo $testa-$testb; grep NoNewPrivs /proc/self/status"
    for flag in (True, False):
        configuration = bundle_config("sh", "-c", script, "a", "b c", "", cwd="/test", noNewPrivileges=flag)
        configuration["process"]["env"] += ["testa=valuea", "testb=123"]
        lines = own.run(configuration).out.splitlines()
        assert lines[:2] == ["/test", "valuea-123"]
        assert lines[-1] == f"NoNewPrivs:\t{int(flag)}"
    configuration = bundle_config("cat", "/proc/self/cmdline", "", "/proc/1/cmdline")
    assert own.run(configuration, check=False).out == "cat\0/proc/self/cmdline\0\0/proc/1/cmdline\0" * 2


def test_process_user(runtime: Runtime) -> None:
    """process_user."""
    configuration = bundle_config("sh", "-c", "id -u; id -g; id -G; umask")
    configuration["process"]["user"] = {"uid": 10, "gid": 10, "additionalGids": [5], "umask": 0o002}
    assert runtime.run(configuration).out.split("\n")[:4] == ["10", "10", "10 5", "0002"]


def test_process_capabilities(runtime: Runtime) -> None:
    """process_capabilities, process_capabilities_fail: five sets; a name that nobody knows is told (an error before 1.0.2)."""
    configuration = bundle_config("cat", "/proc/self/status")
    some = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_CHROOT"]
    sets = {"bounding": [*some, "CAP_SETUID"], "effective": some[:2], "permitted": some, "inheritable": some[1:], "ambient": some[1:2]}
    configuration["process"]["capabilities"] = {**sets, "bounding": [*sets["bounding"], "CAP_TEST"]}
    done = runtime.run(configuration)
    found = status_of(done.out)
    for kind, name in (("bounding", "CapBnd"), ("inheritable", "CapInh"), ("ambient", "CapAmb")):
        assert int(found[name], 16) == credentials.mask(sets[kind]), kind
    assert "CAP_TEST" in done.err


def test_process_rlimits(runtime: Runtime) -> None:
    """process_rlimits, process_rlimits_fail."""
    giga = 1 << 30
    wanted = {
        **{"AS": (2 * giga, giga), "CORE": (4 * giga, 3 * giga), "DATA": (6 * giga, 5 * giga), "FSIZE": (8 * giga, 7 * giga)},
        **{"STACK": (10 * giga, 9 * giga), "CPU": (120, 60), "NOFILE": (4000, 3000)},
    }
    names = {"AS": "address space", "CORE": "core file size", "DATA": "data size", "FSIZE": "file size", "STACK": "stack size"}
    names |= {"CPU": "cpu time", "NOFILE": "open files"}
    configuration = bundle_config("cat", "/proc/self/limits")
    for name, (hard, _) in wanted.items():
        ceiling = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        assert ceiling == resource.RLIM_INFINITY or ceiling >= hard
    configuration["process"]["rlimits"] = [{"type": f"RLIMIT_{name}", "hard": hard, "soft": soft} for name, (hard, soft) in wanted.items()]
    lines = runtime.run(configuration).out.splitlines()
    for name, (hard, soft) in wanted.items():
        line = next(one for one in lines if one.lower().startswith(f"max {names[name]}"))
        assert [str(soft), str(hard)] == line[len(f"max {names[name]}") :].split()[:2], name
    configuration["process"]["rlimits"] = [{"type": "RLIMIT_TEST", "hard": 1024, "soft": 1024}]
    assert "RLIMIT_TEST" in runtime.run(configuration, check=False).err


def test_process_oom_score_adj(runtime: Runtime) -> None:
    """process_oom_score_adj."""
    assert runtime.run(bundle_config("cat", "/proc/self/oom_score_adj", oomScoreAdj=500)).out == "500\n"


@pytest.mark.parametrize("readonly", [True, False])
def test_root_readonly(own: Runtime, *, readonly: bool) -> None:
    """root_readonly_true and its counterpart."""
    configuration = bundle_config("sh", "-c", "touch /new && echo written")
    configuration["root"]["readonly"] = readonly
    assert own.run(configuration, check=False).out == ("" if readonly else "written\n")
    assert (own.image / "new").exists() is not readonly


def test_hostname(runtime: Runtime) -> None:
    """hostname."""
    configuration = bundle_config("hostname")
    configuration["hostname"] = "hostname-specific"
    assert runtime.run(configuration).out == "hostname-specific\n"


def test_mounts(own: Runtime) -> None:
    """mounts: type, source and place as configured, in the order of the list."""
    source = own.place / "source"
    source.mkdir()
    (source / "file").write_text("x")
    configuration = bundle_config("sh", "-c", "cat /proc/self/mountinfo; ls /tmp/first/second /data/sub")
    configuration["mounts"] += [
        {"destination": "/tmp/first", "type": "tmpfs", "source": "one", "options": ["nosuid", "size=64k"]},
        {"destination": "/tmp/first/second", "type": "bind", "source": str(source), "options": ["bind", "ro"]},
        {"destination": "/data/sub", "type": "tmpfs", "source": "hidden", "options": []},
        {"destination": "/data/sub", "type": "bind", "source": str(source), "options": ["rbind"]},
    ]
    lines = own.run(configuration).out.splitlines()
    mounted = [(left.split()[4], *right.split()[:2]) for left, _, right in (line.partition(" - ") for line in lines if " - " in line)]
    for one in configuration["mounts"]:
        if one["type"] not in ("bind", "cgroup"):
            assert (one["destination"], one["type"], one["source"]) in mounted
    assert lines[-5:] == ["/data/sub:", "file", "", "/tmp/first/second:", "file"]


def test_linux_devices(own: Runtime) -> None:
    """linux_devices, and the devices and links that every container has."""
    usual = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
    links = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    configuration = bundle_config(
        "sh", "-c", "stat -c '%n|%F|%t:%T|%a|%u|%g' /dev/* /dev/pts/ptmx; for l in fd stdin stdout stderr; do ls -l /dev/$l; done"
    )
    configuration["linux"]["devices"] = [
        {"path": "/dev/test1", "type": "c", "major": 10, "minor": 666, "fileMode": 0o660, "uid": 0, "gid": 0},
        {"path": "/dev/test2", "type": "b", "major": 8, "minor": 666, "fileMode": 0o664, "uid": 3, "gid": 4},
        {"path": "/dev/test3", "type": "p", "fileMode": 0o600},
        {"path": "/dev/test4", "type": "u", "major": 10, "minor": 667},
    ]
    lines = own.run(configuration).out.splitlines()
    found = {parts[0]: parts[1:] for parts in (line.split("|") for line in lines) if len(parts) == 6}
    for name, (major, minor) in usual.items():
        assert found[f"/dev/{name}"][:3] == ["character special file", f"{major:x}:{minor:x}", "666"], name
    assert found["/dev/pts/ptmx"][0] == "character special file"
    assert found["/dev/test1"] == ["character special file", "a:29a", "660", "0", "0"]
    assert found["/dev/test2"] == ["block special file", "8:29a", "664", "3", "4"]
    assert found["/dev/test3"][0::2] == ["fifo", "600", "0"]
    assert found["/dev/test4"][:2] == ["character special file", "a:29b"]
    assert [line.rsplit(" -> ")[1] for line in lines if " -> " in line] == list(links.values())


# -- what is hidden, and what cannot be written


def tree_of_paths(root: Path, word: str) -> list[str]:
    """Directories in directories and files in all of them, and their paths as a container sees them."""
    (root / f"{word}-dir" / "sub").mkdir(parents=True)
    files = [f"{word}-file", f"{word}-dir/file", f"{word}-dir/sub/file"]
    for name in files:
        (root / name).write_text("secrets")
    return [f"/{one}" for one in (f"{word}-dir", files[0], f"{word}-dir/sub", *files[1:])]


def test_linux_masked_paths(own: Runtime) -> None:
    """linux_masked_paths: directories, files, and what is within others that are masked; nothing of them can be read."""
    configuration = bundle_config("sh", "-c", "cat /masked-file; ls /masked-dir; cat /masked-dir/sub/file /masked-dir/file; echo end")
    paths = tree_of_paths(own.image, "masked")
    configuration["linux"]["maskedPaths"] += [*paths[2:], *paths[:2], "/not/there"]
    done = own.run(configuration)
    assert done.out == "end\n"
    configuration["linux"]["maskedPaths"] = paths
    assert "secrets" not in own.run(configuration).out


def test_linux_readonly_paths(own: Runtime) -> None:
    """linux_readonly_paths: the same tree can be read and not written."""
    paths = tree_of_paths(own.image, "readonly")
    script = (
        "for d in /readonly-dir /readonly-dir/sub; do touch $d/new && echo made; done; for f in {}; do echo x >> $f && echo w; done; cat {}"
    )
    files = " ".join(path for path in paths if path.endswith("file"))
    configuration = bundle_config("sh", "-c", script.format(files, files))
    configuration["linux"]["readonlyPaths"] += [*paths, "/not/there"]
    assert own.run(configuration).out == "secrets" * 3


@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_paths_that_lead_nowhere_and_nodes(own: Runtime, field: str) -> None:
    """linux_masked_paths, linux_readonly_paths: a relative path and a link to itself are errors, any node is not."""
    (own.image / "loop").symlink_to("../loop")
    for path in ("relative", "/loop"):
        configuration = bundle_config("true")
        configuration["linux"][field].append(path)
        assert own.run(configuration, check=False).code
    for number, kind in enumerate((stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO)):
        os.mknod(own.image / f"node{number}", kind | 0o666)
        configuration = bundle_config("stat", "-c", "%F", f"/node{number}")
        configuration["linux"][field].append(f"/node{number}")
        own.run(configuration)


# -- namespaces

KINDS = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}


def without_namespace(configuration: dict[str, Any], kinds: Mapping[str, str]) -> None:
    linux = configuration["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in kinds]
    linux["sysctl"] = {}
    configuration.pop("hostname", None)


@pytest.fixture
def others() -> Iterator[int]:
    """A process in namespaces of its own."""
    command = ["unshare", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        process.kill()


def namespaces_of(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{name}") for kind, name in KINDS.items()}


def test_linux_ns_itype(runtime: Runtime) -> None:
    """linux_ns_itype: what the config does not name is the runtime's own; but for that of mounts, without which there is no container."""
    configuration = bundle_config("sleep", "600")
    without_namespace(configuration, KINDS)
    configuration["mounts"] = [one for one in configuration["mounts"] if one["type"] not in ("sysfs", "mqueue")]
    assert namespaces_of(runtime.state(runtime.create(configuration))["pid"]) == namespaces_of("self")
    without_namespace(configuration, {"mount": "mnt"})
    assert "mount namespace" in runtime.run(configuration, check=False).err


def test_linux_ns_nopath(runtime: Runtime) -> None:
    """linux_ns_nopath: a kind without a path is new."""
    configuration = bundle_config("sleep", "600")
    found = namespaces_of(runtime.state(runtime.create(configuration))["pid"])
    assert not set(found.values()) & set(namespaces_of("self").values())


@pytest.mark.parametrize("kind", KINDS)
def test_linux_ns_path(runtime: Runtime, others: int, kind: str) -> None:
    """linux_ns_path: a kind with a path is that one, and a path to nothing is an error."""
    configuration = bundle_config("sleep", "600")
    without_namespace(configuration, {kind: ""})
    configuration["linux"]["namespaces"].append({"type": kind, "path": f"/proc/{others}/ns/{KINDS[kind]}"})
    assert namespaces_of(runtime.state(runtime.create(configuration))["pid"])[kind] == namespaces_of(others)[kind]
    configuration["linux"]["namespaces"][-1]["path"] = f"/proc/{others}/ns/nothing"
    configuration["linux"]["cgroupsPath"] += "-2"
    assert f"linux.namespaces: {kind}" in runtime.run(configuration, check=False).err


@pytest.mark.parametrize(
    ("kind", "wrong"), [("cgroup", "ipc"), ("ipc", "mnt"), ("network", "pid"), ("pid", "user"), ("user", "uts"), ("uts", "cgroup")]
)
def test_linux_ns_path_type(runtime: Runtime, others: int, kind: str, wrong: str) -> None:
    """linux_ns_path_type: a path to a namespace of another kind is an error."""
    configuration = bundle_config("true")
    without_namespace(configuration, {kind: ""})
    configuration["linux"]["namespaces"].append({"type": kind, "path": f"/proc/{others}/ns/{wrong}"})
    done = runtime.run(configuration, check=False)
    assert (done.code, f"linux.namespaces: {kind}" in done.err) == (1, True), done.err


def test_linux_uid_and_gid_mappings(runtime: Runtime) -> None:
    """linux_uid_mappings, linux_gid_mappings."""
    configuration = bundle_config("sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map")
    configuration["linux"]["namespaces"].append({"type": "user"})
    configuration["linux"] |= {
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 2000}, {"containerID": 2000, "hostID": 200000, "size": 7}],
        "gidMappings": [{"containerID": 0, "hostID": 300000, "size": 3200}],
        "sysctl": {},
    }
    assert [line.split() for line in runtime.run(configuration).out.splitlines()] == [
        ["0", "100000", "2000"],
        ["2000", "200000", "7"],
        ["0", "300000", "3200"],
    ]


@pytest.mark.parametrize("kind", ["shared", "slave", "private", "unbindable"])
def test_linux_rootfs_propagation(own: Runtime, kind: str) -> None:
    """linux_rootfs_propagation: the root's, seen from inside; what cannot be bound is not."""
    configuration = bundle_config("sh", "-c", "cat /proc/self/mountinfo; mkdir /bound; mount -o bind / /bound && echo bound")
    everything = [f"CAP_{name}" for name in ("SYS_ADMIN", "MKNOD", "DAC_OVERRIDE")]
    configuration["process"]["capabilities"] = {name: everything for name in ("bounding", "effective", "permitted")}
    configuration["linux"]["rootfsPropagation"] = kind
    configuration["mounts"] = [one for one in configuration["mounts"] if one["destination"] == "/proc"]
    lines = own.run(configuration, check=False).out.splitlines()
    fields = next(left[6:] for left in (line.partition(" - ")[0].split() for line in lines) if left[4:5] == ["/"])
    words = [one.partition(":")[0] for one in fields]
    expected = {"shared": ["shared"], "slave": [], "private": [], "unbindable": ["unbindable"]}[kind]
    assert [one for one in words if one != "master"] == expected
    assert ("bound" in lines) == (kind != "unbindable")


def test_linux_seccomp(runtime: Runtime) -> None:
    """linux_seccomp: getcwd answers an error."""
    configuration = bundle_config("sh", "-c", "cd /tmp; /bin/pwd; echo $?")
    configuration["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO"}],
    }
    done = runtime.run(configuration)
    assert (done.out, "Operation not permitted" in done.err) == ("1\n", True)


def test_linux_sysctl(runtime: Runtime) -> None:
    """linux_sysctl."""
    configuration = bundle_config("cat", "/proc/sys/net/ipv4/ip_forward")
    configuration["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert runtime.run(configuration).out == "1\n"


@pytest.mark.parametrize(("field", "name"), [("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")])
def test_labels(runtime: Runtime, field: str, name: str) -> None:
    """linux_process_apparmor_profile, linux_mount_label: what the kernel has not is refused by name."""
    if json.loads(runtime("features").out)["linux"][name]["enabled"]:
        pytest.skip(f"this kernel has {name}: what a label does then is its business")
    assert f"process.{field}" in runtime.run(bundle_config("true", **{field: "acme_secure_profile"}), check=False).err


# -- control groups: each also with a relative path, as in the suite's linux_cgroups_relative_*


@pytest.fixture(params=["absolute", "relative"])
def limited(request: pytest.FixtureRequest, runtime: Runtime) -> Any:
    """What the files of a container's group read, given its ``linux.resources``; or the words of the refusal."""

    def read(resources: dict[str, Any], controller: str, *names: str) -> list[str] | str:
        configuration = bundle_config("sleep", "600")
        if request.param == "relative":
            configuration["linux"]["cgroupsPath"] = configuration["linux"]["cgroupsPath"].lstrip("/")
        configuration["linux"]["resources"] = resources
        done = runtime("create", "--bundle", str(runtime.bundle(configuration)), "limited", check=False)
        if done.code:
            return done.err
        assert [one for one in ("kernel", "kernelTCP") if f"memory.{one}: ignored" in done.err] == [
            one for one in ("kernel", "kernelTCP") if one in resources.get("memory", {})
        ]
        group = Path(cgroup.find().directory(controller, configuration["linux"]["cgroupsPath"]) or "")
        found = [(group / name).read_text().strip() for name in names]
        runtime("delete", "--force", "limited")
        return found

    return read


needs_v1 = pytest.mark.skipif(bool(cgroup.find().v2), reason="files of cgroup v1; those of v2 are in test_groups.py")


@needs_v1
def test_linux_cgroups_cpus(limited: Any) -> None:
    """linux_cgroups_cpus, with the sixteen combinations; and an empty object, which changes nothing."""
    files = ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us")
    last = (os.cpu_count() or 1) - 1
    for number in range(16):
        shares, period, quota = (1024, 2048)[number >> 3], (100000, 500000)[number >> 2 & 1], (50000, 200000)[number >> 1 & 1]
        cpus = ("0", f"0-{last}")[number & 1]
        resources = {"cpu": {"shares": shares, "period": period, "quota": quota, "cpus": cpus, "mems": "0"}}
        assert limited(resources, "cpu", *files) == [str(shares), str(period), str(quota)]
        if number < 2:
            assert limited(resources, "cpuset", "cpuset.cpus", "cpuset.mems") == [cpus if last else "0", "0"]
    assert limited({"cpu": {}}, "cpu", *files) == ["1024", "100000", "-1"]


@needs_v1
def test_linux_cgroups_memory(limited: Any) -> None:
    """linux_cgroups_memory; limits of kernel memory, which the kernel has no more, are told and left out, as the specification has it."""
    limit = 50593792
    memory = {"limit": limit, "reservation": limit, "swap": limit, "swappiness": 50, "disableOOMKiller": True}
    names = ("limit_in_bytes", "soft_limit_in_bytes", "memsw.limit_in_bytes", "swappiness")
    for kernel in ({}, {"kernel": limit, "kernelTCP": limit}):
        found = limited({"memory": memory | kernel}, "memory", *(f"memory.{name}" for name in names), "memory.oom_control")
        assert found[:4] == [str(limit)] * 3 + ["50"]
        assert found[4].startswith("oom_kill_disable 1")


@needs_v1
def test_linux_cgroups_pids(limited: Any) -> None:
    """linux_cgroups_pids."""
    assert limited({"pids": {"limit": 1000}}, "pids", "pids.max") == ["1000"]
    assert limited({"pids": {"limit": 0}}, "pids", "pids.max") == ["max"]


@needs_v1
def test_linux_cgroups_blkio(limited: Any) -> None:
    """linux_cgroups_blkio: weights where the scheduler has them, throttles of a device."""
    numbers = next(one / "dev" for one in sorted(Path("/sys/block").iterdir())).read_text().split(":")
    device = {"major": int(numbers[0]), "minor": int(numbers[1])}
    kinds = {
        **{"throttleReadBpsDevice": "read_bps_device", "throttleWriteBpsDevice": "write_bps_device"},
        **{"throttleReadIOPSDevice": "read_iops_device", "throttleWriteIOPSDevice": "write_iops_device"},
    }
    for field, name in kinds.items():
        found = limited({"blockIO": {field: [{**device, "rate": 102400}]}}, "blkio", f"blkio.throttle.{name}")
        assert found == [f"{device['major']}:{device['minor']} 102400"]
    for name, field in (("bfq.weight", "weight"), ("leaf_weight", "leafWeight")):
        found = limited({"blockIO": {field: 500}}, "blkio", f"blkio.{name}")
        assert found == ["500"] or f"blkio.{field.replace('fW', 'f_w')}" in found, field


@needs_v1
def test_linux_cgroups_devices(limited: Any) -> None:
    """linux_cgroups_devices: rules hold in the order of the list."""
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": True, "type": "b", "major": 8, "minor": 20, "access": "rw"},
        {"allow": True, "type": "b", "major": 10, "minor": 200, "access": "r"},
    ]
    found = limited({"devices": rules}, "devices", "devices.list")[0].splitlines()
    assert found[:3] == ["c 10:229 rwm", "b 8:20 rw", "b 10:200 r"]
    assert "a *:* rwm" not in found


@needs_v1
def test_linux_cgroups_hugetlb_and_network(limited: Any) -> None:
    """linux_cgroups_hugetlb, linux_cgroups_network: as wanted, or refused by name where the machine has no such controller."""
    groups = cgroup.find()
    wanted = (
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 30}]}, "hugetlb.2MB.limit_in_bytes", str(2 << 30)),
        ("net_cls", {"network": {"classID": 255}}, "net_cls.classid", "255"),
        ("net_prio", {"network": {"priorities": [{"name": "lo", "priority": 10}]}}, "net_prio.ifpriomap", "lo 10"),
    )
    for controller, resources, name, value in wanted:
        found = limited(resources, controller, name)
        assert value in found[0] if controller in groups.v1 else f"no {controller} cgroup" in found
    assert isinstance(limited({"hugepageLimits": [{"pageSize": "3MB", "limit": 100 << 20}]}, "hugetlb"), str)


def test_a_limit_of_processes_holds(runtime: Runtime) -> None:
    """linux_cgroups_pids, felt from inside."""
    configuration = bundle_config("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all")
    configuration["linux"]["resources"]["pids"] = {"limit": 4}
    done = runtime.run(configuration, check=False)
    assert (done.out, "fork" in done.err) == ("", True)


def test_ended_by_a_signal_is_stopped(runtime: Runtime) -> None:
    """state: whatever ended it."""
    ident = runtime.create(bundle_config("sleep", "600"))
    pid = runtime.state(ident)["pid"]
    runtime("start", ident)
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    assert waiting.poll(20000)
    os.close(pidfd)
    assert runtime.state(ident)["status"] == "stopped"
