"""``wherry daemon``: the engine itself in the foreground; ``wherry daemon stop`` ends the one that listens."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Command, Failure, Invocation
from wherry.client.http import ConnectError, connect

STOP_PATIENCE_MS = 60_000
SIGTERM = 15


def run(invocation: Invocation) -> int:
    if invocation.arguments[:1] == ["stop"]:
        return stop(invocation)
    os.execv(sys.executable, [sys.executable, "-m", "wherry.daemon", *invocation.arguments])


def stop(invocation: Invocation) -> int:
    """End the daemon that listens at the address in force, and wait until it has ended."""
    if len(invocation.arguments) > 1:
        raise Failure("wherry: 'wherry daemon stop' accepts no arguments")
    address = invocation.program.address
    if not address.startswith("unix:"):
        raise Failure(f"only a daemon of this machine can be stopped, not {address}")
    try:
        pid = _listener(address)
    except ConnectError as error:
        if error.missing:
            print(f"no daemon listens at {address}", file=sys.stderr)
            return 0
        raise
    import select

    descriptor = os.pidfd_open(pid)
    os.kill(pid, SIGTERM)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(STOP_PATIENCE_MS):
        raise Failure(f"the daemon (process {pid}) has not ended after {STOP_PATIENCE_MS // 1000} s")
    return 0


def _listener(address: str) -> int:
    """The process that listens on a unix socket.  Source: unix(7), SO_PEERCRED."""
    import _socket

    sock = connect(address)
    try:
        credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    finally:
        sock.close()
    pid = int.from_bytes(credentials[:4], sys.byteorder)
    if not pid:
        raise Failure("the daemon runs in another pid namespace: it cannot be stopped from here")
    return pid


COMMAND = Command("[stop | OPTIONS]", "Run the engine in the foreground, or stop the one that runs", run, raw=True)
