"""Processes that share our memory until they execute their program."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.kernel import libc, namespace, spawn

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(libc.MACHINE != "x86_64", reason="there are no instructions for another machine yet"),
]


@pytest.fixture
def spawner() -> Iterator[spawn.Spawner]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    yield spawn.Spawner()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def own_mounts() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def program(*arguments: str, what: str = "execve") -> spawn.Table:
    table = spawn.Table()
    words = [one.encode() for one in arguments]
    table.add("execve", words[0] + b"\0", table.strings(words), table.strings([b"A=b"]), what=what)
    return table


def end_of(process: spawn.Spawned) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    os.close(process.pidfd)
    return code


def test_it_does_table_after_table_and_becomes_the_program(spawner: spawn.Spawner, tmp_path: Path) -> None:
    mounts = own_mounts()
    opened = set(os.listdir("/proc/self/fd"))
    process = spawner.spawn(namespace.CLONE_NEWPID)
    first = spawn.Table()
    readable, writable = os.pipe()
    first.add("write", writable, b"first", 5)
    process.perform(first)
    assert os.read(readable, 5) == b"first"
    root = os.stat("/")
    file = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    detached = spawn.Table()
    detached.add("dup3", file, 1, 0)
    detached.add("close", 12345, optional=True)
    assert process.detach(mounts, detached) == (root.st_dev, root.st_ino)
    for fd in (readable, writable, file):
        os.close(fd)  # it has its own
    process.release(program("/bin/sh", "-c", "echo $$ $A; exit 7"))
    assert end_of(process) == 7
    assert (tmp_path / "out").read_text() == "1 b\n"
    assert set(os.listdir("/proc/self/fd")) == opened
    os.close(mounts)


@pytest.mark.parametrize("stage", ["perform", "detach", "release"])
def test_what_the_kernel_refuses_is_named_and_ends_it(spawner: spawn.Spawner, stage: str) -> None:
    mounts = own_mounts()
    process = spawner.spawn(0)
    bad = spawn.Table()
    bad.add("close", 12345, what="the bad one")
    with pytest.raises(spawn.Refused) as refused:  # noqa: PT012 -- where it fails is what differs
        if stage == "perform":
            process.perform(bad)
        process.detach(-1 if stage == "detach" else mounts, bad)
        process.release(program("/bin/true"))
    assert (refused.value.errno, refused.value.what) == (errno.EBADF, "setns" if stage == "detach" else "the bad one")
    process.close()
    assert end_of(process) == 255
    os.close(mounts)


def test_a_program_that_is_not_there(spawner: spawn.Spawner) -> None:
    mounts = own_mounts()
    process = spawner.spawn(0)
    process.detach(mounts, spawn.Table())
    with pytest.raises(spawn.Refused) as refused:
        process.release(program("/nope", what="the program"))
    assert (refused.value.errno, refused.value.what) == (errno.ENOENT, "the program")
    assert end_of(process) == 255
    os.close(mounts)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("uid", [0, 1000])
def test_it_ends_with_its_parent(spawner: spawn.Spawner, detached: bool, uid: int) -> None:
    """Also as another user, whom the kernel forgets to tell."""
    line, theirs = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            process = spawner.spawn(0)
            if detached:
                table = spawn.Table()
                table.add("setresuid", uid, uid, uid)
                process.detach(own_mounts(), table)
            os.write(theirs, str(process.pid).encode())
            signal.sigwait({signal.SIGUSR1})
        finally:
            os._exit(1)
    pidfd = os.pidfd_open(int(os.read(line, 20)))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    assert waiting.poll(10000)
    for fd in (line, theirs, pidfd):
        os.close(fd)
