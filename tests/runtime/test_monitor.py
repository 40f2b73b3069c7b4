"""What a monitor does for a container that runs: input, output, clients, a terminal, published ports."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
import time
from pathlib import Path

import pytest
from tests.runtime.harness import (
    config,
    exchange,
    finish,
    run,
    sleeper,
)
from tests.system.waiting import until

from wherry.kernel import cgroup
from wherry.runtime.failure import LaunchFailure
from wherry.spec.launch import Attachment, Forward, LogTarget

pytestmark = pytest.mark.root


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


def _resident_kb(pid: str) -> int:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))


def test_window_size_is_in_the_right_order(image, tmp_path):
    master, slave = os.openpty()
    from wherry.kernel import terminal

    terminal.set_size(master, height=3, width=4)
    assert struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, b"\0" * 8))[:2] == (3, 4)
    os.close(master)
    os.close(slave)


def test_a_log_that_cannot_be_opened_ends_the_start_and_the_first_process(image, tmp_path):
    async def check(b):
        log = LogTarget(driver="json-file", path="/nope/log")
        with pytest.raises(LaunchFailure, match="No such file or directory: /nope/log"):
            await b.supervisor.run(b.launch(config("sleep", "600"), log=log))
        assert cgroup.is_absent(cgroup.find(), f"/wherry-test/{b.made[-1]}")  # a process in it would keep it

    run(check, image, tmp_path)
