"""A warm process that takes the place of one caller of ``run`` after the other, with the next container's first process in reserve.

A caller is refused, and starts Python itself, unless it is as we are in all that a container inherits: namespaces, control groups, root,
ids, capabilities, seccomp, labels. What can be copied is: descriptors, directory, umask, limits, priorities.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

from wherry.bundle import bundles, commandline, main, running  # noqa: F401 -- running is what a run needs
from wherry.bundle.builder import Builder, Reserve
from wherry.bundle.commandline import Command
from wherry.bundle.cradle import Nest
from wherry.bundle.failures import Failure
from wherry.kernel import process
from wherry.runtime import filters, rehearsal
from wherry.warm import caller, working
from wherry.warm.caller import Unlike
from wherry.warm.working import Request

Reserves = Callable[[filters.Compiler], tuple[Callable[[], Reserve], frozenset[int]]]


def live(line: socket.socket, own: Mapping[str, object], reserves: Reserves) -> None:
    """Serve whom the server names.  ``own``: our `caller.world`; ``reserves``: `building` or `nesting`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # but for a program to pass them on to, while there is one
    process.set_name("wherry-run")
    compiler = filters.Compiler()
    rehearsal.plan_start()  # makes the pages private that the work will write to
    prepare, child = reserves(compiler)
    working.live(line, prepare, lambda request, reserve: _work(request, own, reserve), working.Stays(child, compiler.descriptors))


def building(compiler: filters.Compiler) -> tuple[Callable[[], Reserve], frozenset[int]]:
    """What makes each container ready ahead, and the child process of ours that does; where there can be no builder, as `nesting`."""
    try:
        return Builder(compiler).prepare, frozenset()
    except OSError:
        return nesting(compiler)


def nesting(compiler: filters.Compiler) -> tuple[Callable[[], Reserve], frozenset[int]]:
    """First processes that are interpreters."""
    nest = Nest()
    return lambda: nest.cradle(compiler), frozenset([nest.pid])


def _work(request: Request, own: Mapping[str, object], reserve: Reserve) -> tuple[int, bool]:
    """Run the caller's command in its place; its exit code, and whether we can be another's after that.  Raises Unlike, OSError."""
    try:
        command, lasting = _take_place(request, own, [reserve.pid])
    except Failure as failure:
        raise Unlike from failure
    os.write(request.slot, b"worker %d\n" % os.getpid())
    try:
        return main.perform(command, reserve), lasting
    except BaseException:  # noqa: BLE001 -- the edge of the process
        return 255, False


def _take_place(request: Request, own: Mapping[str, object], also: Sequence[int]) -> tuple[Command, bool]:
    """The caller's command, after we, and the processes ``also`` that are made already, have become like it.  Raises Unlike.

    Also whether we took nothing that stays with us.
    """
    pid = request.caller
    caller.check_asks(pid, request.slot)
    words = [os.fsdecode(word) for word in caller.read(pid, "cmdline").split(b"\0")[2:-1]]
    command = commandline.parse(words)
    _check(command, pid)
    status = caller.read(pid, "status")
    if caller.world(pid, status) != own:
        raise Unlike
    os.umask(caller.umask(status))
    caller.take_descriptors(pid)
    return command, caller.take_place(pid, also)


def _check(command: Command, pid: int) -> None:
    """Raises Unlike for what needs the caller's own descendants, descriptors, keyring or terminal."""
    options = command.options
    if command.verb != "run" or any(
        options[name] for name in ("detach", "preserve-fds", "no-new-keyring", "no-subreaper", "no-pivot", "console-socket", "pidfd-socket")
    ):
        raise Unlike
    if any(name in caller.read(pid, "environ") for name in (b"LISTEN_FDS=", b"NOTIFY_SOCKET=")):
        raise Unlike
    bundle = os.path.join(f"/proc/{pid}/cwd", options["bundle"])
    process_object = bundles.load(bundle).get("process")
    if not isinstance(process_object, dict) or process_object.get("terminal"):
        raise Unlike
