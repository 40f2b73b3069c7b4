"""``start`` and ``run``: a created container becomes its program."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from wherry.bundle import creation, foreground, hooks, notify, removal, states
from wherry.bundle.builder import Reserve
from wherry.bundle.failures import Failure
from wherry.bundle.journal import Journal
from wherry.bundle.states import Place, State
from wherry.kernel import cgroup, process
from wherry.runtime import channel


def start(root: str, ident: str, journal: Journal) -> None:
    """Raises Failure, also when the program cannot be executed."""
    with states.opened(root, ident) as place:
        state = place.state()
        current = states.status(place, state, cgroup.find())
        if current == "stopped":
            raise Failure("cannot start a container that has stopped")
        if current != "created":
            raise Failure("cannot start an already running container")
        with contextlib.ExitStack() as waiting:
            pidfd = waiting.enter_context(states.process(state))
            relay = waiting.enter_context(_relay(place))
            with _connect(place) as line:
                _release(line, state)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place.socket)
            config = place.config()
            kept = waiting.pop_all()
    with kept:  # not locked: a hook may ask for what it likes, and a service may take long until it is ready
        try:
            _run_poststart(config, state)
        except Failure:
            with contextlib.suppress(Failure):  # it may have ended already
                states.send_signal(state, signal.SIGKILL)
            raise
        if relay is not None:
            relay.await_ready(state.pid, pidfd)
    journal.debug(f"started {ident}")


def run(root: str, ident: str, options: Mapping[str, Any], journal: Journal, reserve: Reserve | None = None) -> int:
    """Create and start; unless detached wait for the end, delete, and return the exit code."""
    detached = bool(options["detach"])
    code = 0
    if not options["no-subreaper"] and not detached:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    with contextlib.ExitStack() as stack:
        signals = None if detached else stack.enter_context(foreground.gathered_signals())
        created = creation.create(root, ident, options, journal, here=True, reserve=reserve)
        try:
            relay = stack.enter_context(_relay(created.place))
            if created.line is not None:
                with created.line:
                    _release(created.line, created.state)
            _run_poststart(created.config, created.state)
            if signals is not None:
                code = foreground.wait(created.state.pid, created.pidfd, signals, created.master, relay)
            elif relay is not None:
                relay.await_ready(created.state.pid, created.pidfd)
        except BaseException:
            process.end(created.pidfd)
            removal.delete(root, ident, journal, force=True)
            raise
        os.close(created.pidfd)
    if not detached and not options["keep"]:
        removal.clear(created.place, created.state, created.config, created.found, journal)
    return code


@contextlib.contextmanager
def _relay(place: Place) -> Iterator[notify.Relay | None]:
    """For a container that was created to say when it is ready, and a caller that wants to hear it."""
    host = notify.host_socket()
    if not host or not os.path.isdir(place.notify):
        yield None
        return
    try:
        relay = notify.Relay(place, host)
    except OSError as error:
        raise Failure(f"{notify.VARIABLE} {host}: {error.strerror}") from None
    with relay:
        yield relay


def _connect(place: Place) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(place.path, os.O_PATH | os.O_CLOEXEC)
    try:
        line.connect(f"/proc/self/fd/{directory}/{os.path.basename(place.socket)}")
    except OSError as error:
        line.close()
        raise Failure(f"the container does not wait for its start: {error.strerror}") from None
    finally:
        os.close(directory)
    return line


def _release(line: socket.socket, state: State) -> None:
    """Open the gate and wait until the program is executing."""
    try:
        channel.send(line, {"state": states.document(state, "created")})
        message, _ = channel.receive(line)
    except channel.Closed:
        return
    raise Failure(("" if message["complete"] else "unable to start container process: ") + message["message"])


def _run_poststart(config: Mapping[str, Any], state: State) -> None:
    """Raises Failure, and the caller stops the container."""
    try:
        hooks.run(config, "poststart", states.document(state, "running"))
    except hooks.HookFailed as error:
        raise Failure(str(error)) from None
