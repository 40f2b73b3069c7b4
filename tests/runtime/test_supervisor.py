"""Whole containers through a real zygote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
from tests.runtime.harness import (
    bench,
    comm,
    config,
    exchange,
    exec_launch,
    finish,
    run,
    sleeper,
)
from tests.system.stopwatch import Stopwatch
from tests.system.waiting import until

from wherry.kernel import cgroup, credentials
from wherry.runtime import channel
from wherry.runtime.failure import LaunchFailure
from wherry.runtime.supervisor import Process, Supervisor
from wherry.spec.launch import Attachment
from wherry.spec.mounts import Rootfs

pytestmark = pytest.mark.root


def test_output_exit_code_and_log_of_a_short_program(image, tmp_path):
    async def check(b):
        result = await b.run(config("sh", "-c", "echo out; echo err >&2; printf rest; exit 7"))
        assert (result.record.code, result.stdout, result.stderr) == (7, b"out\nrest", b"err\n")
        entries = [json.loads(line) for line in result.log.splitlines()]
        assert sorted((entry["stream"], entry["log"]) for entry in entries) == [
            ("stderr", "err\n"),
            ("stdout", "out\n"),
            ("stdout", "rest"),
        ]
        launched = tmp_path / b.made[0]
        assert json.loads((launched / "exit.json").read_text())["code"] == 7

    run(check, image, tmp_path)


def test_default_container_is_confined_as_docker_confines(image, tmp_path):
    async def check(b):
        status = await b.shell("cat /proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert [fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [
            "0000000000000000",
            *["00000000a80425fb"] * 3,
            "0000000000000000",
        ]
        assert (fields["Seccomp"], fields["NoNewPrivs"], fields["Groups"].strip()) == ("2", "0", "0")
        assert (await b.shell("ls /proc/1/fd; true")).split() == ["0", "1", "2"]
        assert await b.shell("hostname; echo $HOME; pwd; umask") == "boat\n/root\n/\n0022\n"
        assert await b.shell("cat /proc/self/cgroup | grep -v ':/$' | wc -l") == "0\n"
        mounts = await b.shell("grep -c 'shared:\\|master:' /proc/self/mountinfo || true")
        assert mounts == "0\n"
        assert await b.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "0\n"
        assert await b.shell("ls -A /sys/firmware /sys/kernel/slab | grep -v : | wc -w") == "0\n"
        assert await b.shell("(echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -c 'Read-only'") == "1\n"
        hierarchies = await b.shell(
            "cd /sys/fs/cgroup; for d in . */; do [ ! -d $d ] || touch $d/x 2>&1 | grep -c 'Read-only'; done | sort -u"
        )
        assert hierarchies == "1\n"
        assert await b.shell("mknod /tmp/d c 10 200 && cat /tmp/d 2>&1 | grep -c 'not permitted'") == "1\n"

    run(check, image, tmp_path)


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/x", 127, 'exec: "/x": stat /x: no such file or directory'),
        ("/etc", 126, 'exec: "/etc": is a directory: permission denied'),
        ("/etc/plain", 126, 'exec: "/etc/plain": permission denied'),
    ],
)
def test_program_that_cannot_start_is_refused_in_dockers_words(image, tmp_path, program, code, words):
    async def check(b):
        with pytest.raises(LaunchFailure) as failure:
            await b.run(config(program))
        assert failure.value.code == code
        assert failure.value.message.endswith("error during container init: " + words)
        groups = cgroup.find()
        assert not any(os.path.exists(directory) for directory in groups.directories(f"/wherry-test/{b.made[0]}"))

    run(check, image, tmp_path)


def test_script_without_its_interpreter_ends_255_and_says_why(image, tmp_path):
    async def check(b):
        result = await b.run(config("badsh"))
        assert (result.record.code, result.stderr) == (255, b"exec /bin/badsh: no such file or directory\n")

    run(check, image, tmp_path)


def test_users_are_found_in_the_containers_own_files(image, tmp_path):
    async def check(b):
        async def ident(user, **fields):
            return (await b.run(config("sh", "-c", "id -u; id -g; id -G; echo $HOME"), user=user, **fields)).stdout.split(b"\n")[:4]

        assert await ident("al") == [b"1000", b"1000", b"1000 2000", b"/home/al"]
        assert await ident("1000:extra") == [b"1000", b"2000", b"2000", b"/home/al"]
        assert await ident("55", groups=("extra",)) == [b"55", b"0", b"0 2000", b"/"]
        capabilities = (await b.run(config("grep", "CapEff", "/proc/self/status"), user="al")).stdout
        assert capabilities.split() == [b"CapEff:", b"0000000000000000"]
        for user, words in (
            ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
            ("0:no", "unable to find group no:"),
        ):
            with pytest.raises(LaunchFailure, match=words) as failure:
                await ident(user)
            assert failure.value.code == 128

    run(check, image, tmp_path)


def test_exec_has_the_containers_view_and_its_own_exit_code(image, tmp_path):
    async def check(b):
        process, _launch = await sleeper(b)
        record, out, err = await b.exec(
            process, "sh", "-c", "hostname; cat /proc/self/cgroup | grep -vc ':/$'; grep Cap /proc/self/status; echo e >&2; exit 3"
        )
        assert record.code == 3
        assert out.startswith(b"boat\n0\n")
        assert b"CapInh:\t0000000000000000\n" in out
        assert err == b"e\n"
        record, out, _ = await b.exec(process, "cat", stdin=b"through\n")
        assert (record.code, out) == (0, b"through\n")
        record, out, _ = await b.exec(process, "id", "-un", user="al")
        assert out == b"al\n"
        record, out, _ = await b.exec(process, "tty", terminal=True)
        assert out == b"/dev/pts/0\r\n"
        with pytest.raises(LaunchFailure) as failure:
            await b.exec(process, "nosuch")
        assert (failure.value.code, failure.value.message) == (
            127,
            'OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH',
        )
        await finish(process)
        with pytest.raises(LaunchFailure, match="the container has ended"):  # whoever has its number now
            await b.supervisor.execute(exec_launch(process, "true"))

    run(check, image, tmp_path)


def test_killed_container_has_128_plus_the_signal(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b)
        process.signal(signal.SIGKILL)
        records = await asyncio.gather(process.wait(), process.wait())
        assert [record.code for record in records] == [137, 137]
        await process.acknowledge()
        with pytest.raises(ProcessLookupError):
            process.signal(signal.SIGTERM)

    run(check, image, tmp_path)


def test_init_passes_signals_on_and_reaps(image, tmp_path):
    async def check(b):
        process = await b.supervisor.run(b.launch(config("sleep", "600"), init=True))
        ready = await b.exec(process, "sh", "-c", "(sleep 0 &) ; ps")
        assert b"sleep 600" in ready[1]
        process.signal(signal.SIGTERM)
        assert (await process.wait()).code == 143
        await process.acknowledge()
        result = await b.run(config("sh", "-c", "exit 9"), init=True)
        assert result.record.code == 9

    run(check, image, tmp_path)


def test_when_memory_is_short_monitors_are_the_last_and_programs_are_not(image, tmp_path):
    async def scenario():
        async with bench(image, tmp_path) as place:
            process = await place.supervisor.run(place.launch(config("sleep", "1000", oomScoreAdj=0)))
            try:
                parent = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
                scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (process.pid, parent)]
                own = int(Path("/proc/self/oom_score_adj").read_text())
                out = (await place.exec(process, "cat", "/proc/self/oom_score_adj"))[1]
            finally:
                process.signal(9)
                await process.wait()
                await process.acknowledge()
            may_lower = credentials.capget()[0] >> credentials.NUMBERS["CAP_SYS_RESOURCE"] & 1
            assert scores == [0, -999 if may_lower else own]
            assert int(out) == 0

    asyncio.run(scenario())


def test_oom_kill_is_told(image, tmp_path):
    async def check(b):
        configuration = config("dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1")
        configuration["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
        result = await b.run(configuration)
        assert (result.record.code, result.record.oom_killed) == (137, True)

    run(check, image, tmp_path)


def test_container_outlives_daemon_and_zygote_and_is_adopted(image, tmp_path):
    async def check(b):
        launch = b.launch(config("sh", "-c", "read word; echo $word; exit 4"), open_stdin=True, stdin_once=True)
        process = await b.supervisor.run(launch)
        await b.supervisor.close()
        async with bench(image, tmp_path) as later:
            adopted = await later.supervisor.adopt(launch.id, launch.socket_path)
            assert adopted is not None
            assert (adopted.pid, adopted.started_at_ns) == (process.pid, process.started_at_ns)
            ours, theirs = socket.socketpair()
            await adopted.attach(theirs.fileno(), Attachment(stdin=True, stdout=True, stderr=True))
            theirs.close()
            out, _ = await exchange(ours, b"again\n", multiplexed=True)
            assert out == b"again\n"
            assert (await adopted.wait()).code == 4
            await adopted.acknowledge()
            assert await later.supervisor.adopt("none", str(tmp_path / "none")) is None

    run(check, image, tmp_path)


def test_exit_without_a_daemon_is_on_disk(image, tmp_path):
    async def check(b):
        process, launch = await sleeper(b)
        heard, other = await sleeper(b)
        heard.signal(signal.SIGKILL)
        await heard.wait()
        written = os.stat(f"{other.record_dir}/exit.json").st_ino  # only against the daemon's death: that one would make the end durable
        pidfd = os.dup(process.pidfd)
        await b.supervisor.close()
        until(lambda: not os.path.exists(other.socket_path))
        assert os.stat(f"{other.record_dir}/exit.json").st_ino != written
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        until(lambda: not os.path.exists(launch.socket_path))
        assert json.loads(Path(launch.record_dir, "exit.json").read_text())["code"] == 137

    run(check, image, tmp_path)


def test_monitor_of_a_container_whose_directory_is_gone_does_not_stay(image, tmp_path):
    async def check(b):
        process, launch = await sleeper(b, socket_path=str(tmp_path / "sock"))
        pidfd = os.dup(process.pidfd)
        await b.supervisor.close()
        shutil.rmtree(launch.record_dir)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        until(lambda: not os.path.exists(launch.socket_path))

    run(check, image, tmp_path)


def test_zygote_that_dies_is_replaced(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b)
        zygote = b.supervisor._zygote
        zygote.kill()
        await zygote.wait()
        assert await b.shell("echo still") == "still\n"
        await finish(process)

    run(check, image, tmp_path)


def test_container_in_the_hosts_pid_namespace_leaves_no_process(image, tmp_path):
    async def check(b):
        configuration = config("sh", "-c", "sleep 600 & echo $!")
        namespaces = configuration["linux"]["namespaces"]
        configuration["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "pid"]
        with Stopwatch() as watch:
            result = await b.run(configuration)
        assert watch.seconds < 1.5  # who has its output open is ended at once, not waited for
        until(lambda: not comm(int(result.stdout)).startswith("sleep"))
        groups = cgroup.find().directories(f"/wherry-test/{b.made[0]}")
        until(lambda: not any(os.path.exists(directory) for directory in groups))

    run(check, image, tmp_path)


def test_who_came_into_the_group_just_before_the_end_does_not_keep_it(image, tmp_path):
    """As an exec that is on its way in: it is not yet in the pid namespace, which ends with its first process."""

    async def check(b):
        process, _ = await sleeper(b)
        found, path = cgroup.find(), f"/wherry-test/{b.made[0]}"
        late = await asyncio.create_subprocess_exec("sleep", "600")
        try:
            for directory in found.directories(path):
                Path(directory, "cgroup.procs").write_text(str(late.pid))
            await finish(process)
            assert await asyncio.wait_for(late.wait(), 30) == -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                late.kill()
        until(lambda: not any(os.path.exists(directory) for directory in found.directories(path)))

    run(check, image, tmp_path)


def test_tasks_work_inside_the_root(image, tmp_path):
    async def check(b):
        process, launch = await sleeper(b)
        facts = await b.supervisor.task(process, "stat", {"path": "/data/file"})
        assert (facts["name"], facts["size"]) == ("file", len("from the image\n"))
        assert (await b.supervisor.task(process, "stat", {"path": "/bin/sh"}))["link_target"] == "busybox"
        with pytest.raises(FileNotFoundError) as missing:
            await b.supervisor.task(process, "stat", {"path": "/nope"})
        assert missing.value.filename == "nope"
        await finish(process)
        rootfs = Rootfs(lower=(str(image),))
        reader, writer = os.pipe()
        packing = asyncio.ensure_future(b.supervisor.task(rootfs, "pack", {"path": "/data", "name": "data"}, [writer]))
        await packing
        os.close(writer)
        archive = b"".join(iter(lambda: os.read(reader, 65536), b""))
        os.close(reader)
        assert b"data/file" in archive
        assert b"from the image" in archive
        into = os.memfd_create("archive")
        os.write(into, archive)
        os.lseek(into, 0, os.SEEK_SET)
        await b.supervisor.task(launch.rootfs, "mkdir", {"path": "/dst", "mode": 0o700})
        await b.supervisor.task(launch.rootfs, "unpack", {"path": "/dst"}, [into])
        os.close(into)
        assert Path(launch.rootfs.upper, "dst/data/file").read_text() == "from the image\n"

    run(check, image, tmp_path)


def test_a_monitor_that_may_go_leaves_the_name_where_it_listened_to_the_next(image, tmp_path):
    async def check(b):
        process, launch = await sleeper(b)
        monitor = re.search(r"PPid:\t(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]
        process.signal(signal.SIGKILL)
        await process.wait()
        await process.acknowledge()
        Path(launch.socket_path).write_text("the next one's")
        until(lambda: not os.path.exists(f"/proc/{monitor}"))
        assert Path(launch.socket_path).exists()

    run(check, image, tmp_path)


def test_a_monitor_that_died_before_it_heard_that_it_may_go_is_lost() -> None:
    async def scenario() -> bool:
        ours, theirs = channel.pair()
        process = Process("x", ours, Supervisor())
        theirs.close()
        await process.acknowledge()
        return process.lost

    assert asyncio.run(scenario())


@pytest.mark.parametrize("end", ["it goes on", "it is killed", "the daemon lets go of it"])
def test_all_who_wait_for_a_monitor_that_hangs_hear_of_it(image, tmp_path, end):
    async def check(b):
        process, _ = await sleeper(b)
        monitor = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(monitor, signal.SIGSTOP)

        async def resize_often():
            for _ in range(1000):  # more than a socket holds
                await process.resize(24, 80)

        asking = [asyncio.ensure_future(resize_often()) for _ in range(3)]
        await asyncio.wait(asking, timeout=0.5)
        assert not any(one.done() for one in asking)
        if end == "the daemon lets go of it":
            process.close()
        os.kill(monitor, signal.SIGKILL if end == "it is killed" else signal.SIGCONT)
        ended = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 20)
        if end == "it goes on":
            assert ended == [None] * 3
            await finish(process)
        else:
            assert [type(one) for one in ended] == [ProcessLookupError] * 3
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    run(check, image, tmp_path)


def test_a_number_that_another_process_has_by_now_leads_to_nobodys_namespace(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b)
        fd = process.open_namespace("net")
        assert os.fstat(fd).st_ino != os.stat("/proc/self/ns/net").st_ino
        os.close(fd)
        process.signal(signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{process.pid}"))  # reaped, and the loop has not heard of it
        for number in (process.pid, os.getpid()):
            process.pid = number
            with pytest.raises(ProcessLookupError):
                process.open_namespace("net")
        await process.wait()
        await process.acknowledge()

    run(check, image, tmp_path)
