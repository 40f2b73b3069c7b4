"""Whole containers through a real zygote."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import termios
import time
from pathlib import Path

import pytest
from tests.runtime.harness import Bench, bench, config, exchange, exec_launch
from tests.system.waiting import until

from wherry.kernel import cgroup, credentials
from wherry.runtime import defaults
from wherry.runtime.failure import LaunchFailure
from wherry.runtime.supervisor import Process
from wherry.spec.launch import Attachment, CopyUp, Forward, Launch, LogTarget
from wherry.spec.mounts import Rootfs

pytestmark = pytest.mark.root


def run(coroutine_function, image: Path, place: Path) -> None:
    """Run one asynchronous test with a bench, within a minute."""

    async def main() -> None:
        async with asyncio.timeout(60), bench(image, place) as b:
            await coroutine_function(b)

    asyncio.run(main())


async def sleeper(b: Bench, **fields) -> tuple[Process, Launch]:
    launch = b.launch(config("sleep", "600"), **fields)
    return await b.supervisor.run(launch), launch


async def finish(process: Process) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await process.acknowledge()


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
        hierarchies = await b.shell("cd /sys/fs/cgroup; for d in . */; do touch $d/x 2>&1 | grep -c 'Read-only'; done | sort -u")
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


def test_stdin_reaches_the_program_and_ends(image, tmp_path):
    async def check(b):
        data = os.urandom(300_000).hex().encode()
        result = await b.run(config("cat"), stdin=data, log=LogTarget(driver="none"))
        assert result.stdout == data

    run(check, image, tmp_path)


def test_much_output_arrives_whole_with_and_without_a_log(image, tmp_path):
    async def check(b):
        for driver in ("none", "json-file"):
            target = LogTarget(driver=driver, path=str(tmp_path / "big.log") if driver != "none" else "")
            result = await b.run(config("seq", "200000"), log=target)
            assert result.stdout == b"".join(b"%d\n" % number for number in range(1, 200_001))
        lines = (tmp_path / "big.log").read_bytes().splitlines()
        assert len(lines) == 200_000
        assert json.loads(lines[-1])["log"] == "200000\n"

    run(check, image, tmp_path)


def test_several_clients_see_the_same_output_and_one_that_goes_hurts_nobody(image, tmp_path):
    async def check(b):
        launch = b.launch(config("sh", "-c", "read go; seq 1000"), open_stdin=True, stdin_once=True)
        process = await b.supervisor.run(launch)
        pairs = [socket.socketpair() for _ in range(3)]
        for index, (_, theirs) in enumerate(pairs):
            await process.attach(theirs.fileno(), Attachment(stdin=index == 0, stdout=True, stderr=True))
            theirs.close()
        pairs[2][0].close()
        readers = [
            asyncio.ensure_future(exchange(ours, b"go\n" if index == 0 else None, multiplexed=True))
            for index, (ours, _) in enumerate(pairs[:2])
        ]
        outputs = await asyncio.gather(*readers)
        expected = b"".join(b"%d\n" % number for number in range(1, 1001))
        assert [output[0] for output in outputs] == [expected, expected]
        assert (await process.wait()).code == 0
        await process.acknowledge()

    run(check, image, tmp_path)


def test_waiting_for_a_client_that_ended_its_input_costs_nothing(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b, open_stdin=True, stdin_once=True)
        pairs = [socket.socketpair() for _ in range(2)]
        for index, (ours, theirs) in enumerate(pairs):
            await process.attach(theirs.fileno(), Attachment(stdin=index == 0, stdout=True, stderr=True))
            theirs.close()
            ours.shutdown(socket.SHUT_WR)
        monitor = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])

        until(lambda: is_idle(monitor))
        for ours, _ in pairs:
            ours.close()
        await finish(process)

    run(check, image, tmp_path)


def test_a_client_that_says_more_than_the_program_reads_sees_an_end_and_no_error(image, tmp_path):
    async def check(b):
        launch = b.launch(config("sh", "-c", "read word; echo out"), open_stdin=True, stdin_once=True)
        ours, theirs = socket.socketpair()
        attachment = Attachment(stdin=True, stdout=True, stderr=True, multiplexed=False)
        process = await b.supervisor.run(launch, attachments=[(theirs.fileno(), attachment)])
        theirs.close()
        said = asyncio.ensure_future(asyncio.to_thread(say_for_ever, ours.dup()))
        heard = b""
        with ours:
            while data := await asyncio.to_thread(ours.recv, 4096):
                heard += data
        assert heard == b"out\n"
        await said
        assert (await process.wait()).code == 0
        await process.acknowledge()

    run(check, image, tmp_path)


def say_for_ever(client: socket.socket) -> None:
    with client, contextlib.suppress(BrokenPipeError):
        while True:
            client.sendall(b"y\n" * 4096)


@pytest.mark.parametrize("driver", ["none", "json-file"])
def test_slow_client_gets_everything_after_the_program_ended_and_waiting_for_it_costs_nothing(image, tmp_path, driver):
    async def check(b):
        log = LogTarget(driver=driver, path=str(tmp_path / "log") if driver != "none" else "")
        launch = b.launch(config("dd", "if=/dev/zero", "bs=64k", "count=200"), log=log)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        attachments = [(theirs.fileno(), Attachment(stdin=False, stdout=True, stderr=False, multiplexed=False))]
        process = await b.supervisor.run(launch, attachments=attachments)
        theirs.close()
        monitor = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
        until(lambda: is_idle(monitor))
        out, _ = await exchange(ours, None, multiplexed=False)
        assert len(out) == 200 << 16
        assert (await process.wait()).code == 0
        await process.acknowledge()

    run(check, image, tmp_path)


def is_idle(pid: int) -> bool:
    before = cpu_ticks(pid)
    time.sleep(0.15)
    return cpu_ticks(pid) == before


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_terminal_has_its_size_resizes_and_detaches(image, tmp_path):
    async def check(b):
        launch = b.launch(config("sh"), terminal=True, open_stdin=True, console_size=(33, 44))
        ours, theirs = socket.socketpair()
        process = await b.supervisor.run(
            launch, attachments=[(theirs.fileno(), Attachment(stdin=True, stdout=True, stderr=True, multiplexed=False))]
        )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"tty; stty size\n")
        await reader.readuntil(b"33 44\r\n")
        await process.resize(50, 60)
        writer.write(b"stty size\n")
        await reader.readuntil(b"50 60\r\n")
        writer.write(b"\x10\x11")
        assert b"exit" not in await reader.read()
        writer.close()
        again, theirs = socket.socketpair()
        await process.attach(theirs.fileno(), Attachment(stdin=True, stdout=True, stderr=True, multiplexed=False))
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=again)
        writer.write(b"exit 5\n")
        await reader.read()
        writer.close()
        assert (await process.wait()).code == 5
        await process.acknowledge()

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
        with pytest.raises(LaunchFailure):
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


def test_bind_mounts_volumes_and_tmpfs(image, tmp_path):
    async def check(b):
        host = tmp_path / "host"
        host.mkdir()
        (host / "f").write_text("host file\n")
        volume = tmp_path / "volume"
        volume.mkdir()
        configuration = config(
            "sh", "-c", "cat /mnt/deep/f; (touch /mnt/deep/x) 2>&1 | grep -c Read-only; cat /data/file /one; stat -c %u:%g /data; ls /t"
        )
        configuration["mounts"] += [
            {"destination": "/mnt/deep", "type": "bind", "source": str(host), "options": ["rbind", "ro", "rprivate"]},
            {"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]},
            {"destination": "/one", "type": "bind", "source": str(host / "f"), "options": ["rbind"]},
            {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
        ]
        result = await b.run(configuration, copy_ups=(CopyUp(source=str(volume), destination="/data"),))
        assert result.stdout == b"host file\n1\nfrom the image\nhost file\n7:8\n"
        assert (volume / "file").read_text() == "from the image\n"
        assert (volume.stat().st_uid, volume.stat().st_gid) == (7, 8)
        assert sorted(os.listdir(host)) == ["f"]

    run(check, image, tmp_path)


def test_image_links_lead_no_mount_outside(image, tmp_path):
    async def check(b):
        outside = tmp_path / "outside"
        outside.mkdir()
        host = tmp_path / "host"
        host.mkdir()
        layer = tmp_path / "layer"
        (layer / "etc").mkdir(parents=True)
        (layer / "link").symlink_to(outside)
        (layer / "etc/passwd").symlink_to("/dev/zero")
        configuration = config("ls", "/link")
        configuration["mounts"].append({"destination": "/link/new", "type": "bind", "source": str(host), "options": ["rbind"]})
        launch = b.launch(configuration)
        rootfs = Rootfs(lower=(str(layer), str(image)), upper=launch.rootfs.upper, work=launch.rootfs.work)
        result = None
        try:
            result = await b.run(configuration, rootfs=rootfs)
        except LaunchFailure:
            pass
        assert result is None or result.stdout in (b"new\n", b"")
        assert os.listdir(outside) == []

    run(check, image, tmp_path)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_directory_harms_nothing(image, tmp_path, name):
    async def check(b):
        outside = tmp_path / "outside"
        outside.mkdir()
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / name).symlink_to(outside)
        launch = b.launch(config("true"))
        rootfs = Rootfs(lower=(str(layer), str(image)), upper=launch.rootfs.upper, work=launch.rootfs.work)
        with pytest.raises(LaunchFailure):
            await b.run(config("true"), rootfs=rootfs)
        assert os.listdir(outside) == []

    run(check, image, tmp_path)


def test_working_directory_is_made_and_magic_links_are_no_way_out(image, tmp_path):
    async def check(b):
        result = await b.run(config("pwd", cwd="/new/place"))
        assert result.stdout == b"/new/place\n"
        for number in (3, 5, 7, 9, 12):
            try:
                result = await b.run(config("pwd", cwd=f"/proc/self/fd/{number}"))
            except LaunchFailure:
                continue
            assert not result.stdout.startswith(b"(unreachable)")
        with pytest.raises(LaunchFailure, match="chdir to cwd"):
            await b.run(config("true", cwd="/etc/plain"))

    run(check, image, tmp_path)


def test_privileged_container_has_everything(image, tmp_path):
    async def check(b):
        configuration = config(
            "sh", "-c", "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo ok"
        )
        every = [name for name in __import__("wherry.kernel.credentials", fromlist=["NAMES"]).NAMES]
        configuration["process"]["capabilities"] = {"bounding": every, "permitted": every, "effective": every}
        configuration["linux"] |= {"seccomp": None, "maskedPaths": [], "readonlyPaths": []}
        configuration["mounts"] = defaults.mounts(privileged=True)
        result = await b.run(configuration)
        assert b"Seccomp:\t0\nok\n" in result.stdout, result

    run(check, image, tmp_path)


def test_published_port_is_relayed(image, tmp_path):
    async def check(b):
        listener = socket.create_server(("127.0.0.1", 0))
        echo = socket.create_server(("127.0.0.1", 0))
        launch = b.launch(
            config("sleep", "600"), forwards=(Forward(protocol="tcp", target_ip="127.0.0.1", target_port=echo.getsockname()[1]),)
        )
        process = await b.supervisor.run(launch, forward_fds=[listener.fileno()])
        address = listener.getsockname()
        listener.close()
        reader, writer = await asyncio.open_connection(*address)
        echo.setblocking(False)
        served, _ = await asyncio.get_running_loop().sock_accept(echo)
        writer.write(b"question" * 20000)
        writer.write_eof()
        inner_reader, inner_writer = await asyncio.open_connection(sock=served)
        assert await inner_reader.read() == b"question" * 20000
        inner_writer.write(b"answer")
        inner_writer.close()
        assert await reader.read() == b"answer"
        writer.close()
        echo.close()
        await finish(process)

    run(check, image, tmp_path)


def test_what_a_published_port_cannot_pass_on_stays_with_its_senders(image, tmp_path):
    """A server that reads nothing and many clients would fill the monitor's memory, which no limit of the container's counts."""

    async def check(b):
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        deaf = socket.create_server(("127.0.0.1", 0), backlog=100)
        forward = Forward(protocol="tcp", target_ip="127.0.0.1", target_port=deaf.getsockname()[1])
        process = await b.supervisor.run(b.launch(config("sleep", "600"), forwards=(forward,)), forward_fds=[listener.fileno()])
        address = listener.getsockname()
        listener.close()
        monitor = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1]
        before = _resident_kb(monitor)
        with contextlib.ExitStack() as ends:
            for _ in range(40):
                client = ends.enter_context(socket.create_connection(address))
                ends.enter_context(deaf.accept()[0])
                client.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    client.sendall(bytes(32 << 20))
            assert _resident_kb(monitor) < before + 4000
            end = ends.enter_context(socket.create_connection(address))
            served = ends.enter_context(deaf.accept()[0])
            served.sendall(b"still here")
            end.settimeout(10)
            assert end.recv(100) == b"still here"
        deaf.close()
        await finish(process)

    run(check, image, tmp_path)


def test_sharing_namespaces_by_path(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b)
        configuration = config("sh", "-c", "ps; hostname")
        configuration.pop("hostname")
        for entry in configuration["linux"]["namespaces"]:
            if entry["type"] in ("pid", "uts", "ipc", "network"):
                kind = {"network": "net"}.get(entry["type"], entry["type"])
                entry["path"] = f"/proc/{process.pid}/ns/{kind}"
        result = await b.run(configuration)
        assert b"sleep 600" in result.stdout
        assert result.stdout.endswith(b"boat\n")
        await finish(process)

    run(check, image, tmp_path)


def test_container_in_the_hosts_pid_namespace_leaves_no_process(image, tmp_path):
    async def check(b):
        configuration = config("sh", "-c", "sleep 600 & echo $!")
        namespaces = configuration["linux"]["namespaces"]
        configuration["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "pid"]
        async with asyncio.timeout(1.5):
            result = await b.run(configuration)
        until(lambda: not _name(str(int(result.stdout))).startswith("sleep"))
        groups = cgroup.find().directories(f"/wherry-test/{b.made[0]}")
        until(lambda: not any(os.path.exists(directory) for directory in groups))

    run(check, image, tmp_path)


def test_limits_read_only_root_and_no_new_privileges(image, tmp_path):
    async def check(b):
        script = "ulimit -n; grep NoNew /proc/self/status; cat /proc/self/oom_score_adj; pwd; touch /x 2>&1"
        limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_NPROC", "soft": 1 << 63, "hard": 1 << 63}]
        configuration = config("sh", "-c", script, cwd="/w", rlimits=limits, noNewPrivileges=True, oomScoreAdj=300)
        configuration["root"]["readonly"] = True
        result = await b.run(configuration)
        assert result.stdout == b"100\nNoNewPrivs:\t1\n300\n/w\ntouch: /x: Read-only file system\n"

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


def _resident_kb(pid: str) -> int:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def test_a_container_has_its_own_nodes_and_limits_where_others_were_made_ahead(image, tmp_path):
    """What a waiting first process has made already is what most containers want, and nothing that this one does not."""

    async def check(b):
        wanted = config(
            "sh", "-c", "stat -c %a,%t /dev/null /dev/zero /dev/fuse; stat -c %a /tmp; ls /tmp; cat /sys/fs/cgroup/pids/pids.max"
        )
        wanted["linux"]["devices"] = [
            {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600},
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
        ]
        other = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
        wanted["mounts"] = [*wanted["mounts"], other]
        until(lambda: is_ready(b))
        assert (await b.run(wanted)).stdout.decode().split() == ["666,1", "600,1", "666,a", "755", "512"]
        if not cgroup.find().v2:
            until(lambda: is_ready(b))
            wanted = config("cat", "/sys/fs/cgroup/devices/devices.list")
            assert (await b.run(copy.deepcopy(wanted))).stdout.decode().split("\n")[2] == "c 1:3 rwm"
            until(lambda: is_ready(b))
            wanted["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
            result = await b.run(wanted)
            assert result.stdout == b"a *:* rwm\n", result

    run(check, image, tmp_path)


def test_what_waits_and_is_killed_or_let_go_leaves_no_control_group(image, tmp_path):
    def waiting():
        return [name for name in cgroup.children(cgroup.find(), "/wherry-test") if name.startswith(f"{defaults.SPARE_GROUP}-{zygote}-")]

    zygote = 0

    async def check(b):
        nonlocal zygote
        zygote = b.supervisor._zygote.pid
        until(lambda: is_ready(b) and (waiting() or cgroup.find().v2))
        before = waiting()
        for name in before:
            os.kill(pid := int(name.rpartition("-")[2]), signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert await b.shell("echo well") == "well\n"
        until(lambda: is_ready(b))
        assert not set(before) & set(waiting())

    run(check, image, tmp_path)
    assert not waiting()


def test_program_waits_for_what_its_launch_says_it_needs(image, tmp_path):
    async def check(b):
        for kind in (None, "pid"):  # with a first process that was made ahead, and without
            wanted = config("true")
            wanted["linux"]["namespaces"] = [one for one in wanted["linux"]["namespaces"] if one["type"] != kind]
            gate, opener = os.pipe()
            starting = asyncio.ensure_future(b.supervisor.run(b.launch(copy.deepcopy(wanted)), gate_fd=gate))
            done, _ = await asyncio.wait([starting], timeout=0.1)
            assert not done
            os.write(opener, b"1")
            process = await starting
            assert (await process.wait()).code == 0
            await process.acknowledge()
            os.close(opener)  # the end without another byte
            with pytest.raises(LaunchFailure, match="the network of the container was not made"):
                await b.supervisor.run(b.launch(wanted), gate_fd=gate)
            os.close(gate)

    run(check, image, tmp_path)


def test_hundred_runs_leak_nothing(image, tmp_path):
    async def check(b):
        await b.shell("true")
        until(lambda: is_ready(b))
        descriptors = len(os.listdir("/proc/self/fd"))
        zygote_fds = len(os.listdir(f"/proc/{b.supervisor._zygote.pid}/fd"))
        for _ in range(20):
            await asyncio.gather(*[b.run(config("true")) for _ in range(5)])
        until(lambda: is_ready(b))
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert len(os.listdir(f"/proc/{b.supervisor._zygote.pid}/fd")) == zygote_fds
        assert not any(os.path.exists(f"{d}/{i}") for i in b.made for d in cgroup.find().directories("/wherry-test"))
        assert not any((tmp_path / ident / "sock").exists() for ident in b.made)

    run(check, image, tmp_path)


def is_ready(b: Bench) -> bool:
    """Whether the zygote waits, with two monitors for the next requests and nobody else."""
    zygote = b.supervisor._zygote.pid
    waits = Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    return children(b) == ["wherry-spare"] * 2 and waits


def children(b: Bench) -> list[str]:
    return sorted(_name(pid).strip() for pid in os.listdir("/proc") if pid.isdigit() and _child_of(pid, b.supervisor._zygote.pid))


def _child_of(pid: str, parent: int) -> bool:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False


def test_window_size_is_in_the_right_order(image, tmp_path):
    master, slave = os.openpty()
    from wherry.kernel import terminal

    terminal.set_size(master, height=3, width=4)
    assert struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, b"\0" * 8))[:2] == (3, 4)
    os.close(master)
    os.close(slave)
