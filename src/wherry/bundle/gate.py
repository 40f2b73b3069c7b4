"""The first process between its birth and its program: where it stops for its parent, and where it waits for ``start``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from wherry.bundle import hooks
from wherry.runtime import channel, init, plan
from wherry.runtime.becoming import Start
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Sandbox


def start(
    wanted: Mapping[str, Any], program: bytes, flags: int, stdio: Sequence[int] = (0, 1, 2), *, preserve_fds: int = 0, keyring: bool = True
) -> Start:
    """How a ``process`` of a bundle starts: exactly as it says, and its end is not ours.  ``program``: the filter, with its ``flags``."""
    terminal = bool(wanted.get("terminal"))
    return Start(
        process=wanted,
        user="",
        groups=(),
        stdio=() if terminal else tuple(stdio),
        terminal=terminal,
        program=program,
        program_flags=flags,
        exact=True,
        outlives=True,
        preserve_fds=preserve_fds,
        keyring=keyring,
    )


def live(
    config: Mapping[str, Any],
    planned: plan.Plan,
    sandbox: Sandbox,
    start: Start,
    report: socket.socket,
    listener: socket.socket | None = None,
) -> NoReturn:
    """A container's first process, up to its program.  ``sandbox``: what there is of it already.

    ``listener``: where ``start`` will come; without it the parent opens the gate.
    """

    def rendezvous() -> None:
        channel.send(report, {"hooks": True})
        document = channel.receive(report)[0]["state"]
        before = os.umask(0o022)
        run_hooks(config, "createContainer", document)
        os.umask(before)

    def limit() -> None:
        channel.send(report, {"limits": True})
        channel.receive(report)

    def gate(line: socket.socket) -> None:
        if through:
            return
        channel.send(line, {"ready": True})
        if listener is not None:
            connection = listener.accept()[0]
            os.dup2(connection.fileno(), line.fileno(), inheritable=False)
            connection.close()
            listener.close()
        document = channel.receive(line)[0]["state"]
        run_hooks(config, "startContainer", document)

    try:
        through = channel.receive(report)[0]["through"]
    except channel.Closed:
        os._exit(1)
    has_users = any(one["type"] == "user" for one in config["linux"].get("namespaces") or ())
    start = replace(start, rendezvous=rendezvous, gate=gate, limit=limit if has_users else None)
    init.run_container(planned, start, report, sandbox)
    os._exit(1)


def run_hooks(config: Mapping[str, Any], kind: str, document: Mapping[str, Any]) -> None:
    """Raises StartFailure at the first that fails."""
    try:
        hooks.run(config, kind, document)
    except hooks.HookFailed as error:
        raise StartFailure(128, str(error), complete=True) from None
