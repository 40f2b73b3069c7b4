"""``wherry run``: create, attach, wait, start, and the session until the container ends."""

from __future__ import annotations

from wherry.cli import creation, running
from wherry.cli.container_flags import FLAGS
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.engine import ApiError, container_path
from wherry.client.http import ConnectError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    if invocation.flag("detach") and invocation.texts("attach"):
        raise Failure("conflicting options: cannot specify both --attach and --detach")
    try:
        creation.check_pull(invocation)
        body = creation.body_of(invocation)
        if invocation.flag("detach"):
            return _detached(invocation, body)
        return _attached(invocation, body)
    except (ApiError, ConnectError, Failure) as error:
        if isinstance(error, running.InputNotTerminal):
            raise
        raise creation.failure(invocation.path, error) from None


def _detached(invocation: Invocation, body: dict[str, Any]) -> int:
    body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    ident = creation.create(invocation, body)
    try:
        invocation.program.engine.post(container_path(ident, "start"))
    finally:  # the container is there also when it cannot be started
        print(ident)
    return 0


def _attached(invocation: Invocation, body: dict[str, Any]) -> int:
    running.check_terminal(stdin=body["AttachStdin"], tty=body["Tty"])
    keys = running.keys_of(invocation)
    ident = creation.create(invocation, body, running.load_session)
    if not (body["AttachStdin"] or body["AttachStdout"] or body["AttachStderr"]):
        print(ident, flush=True)
    return running.start_attached(
        invocation.program,
        ident,
        stdin=body["AttachStdin"],
        stdout=body["AttachStdout"],
        stderr=body["AttachStderr"],
        tty=body["Tty"],
        remove=body["HostConfig"]["AutoRemove"],
        keys=keys,
        proxy=invocation.flag("sig-proxy"),
    )


RUN_FLAGS = (
    *FLAGS,
    Flag("detach", "bool", "Run in the background and print the container's id", short="d"),
    Flag("detach-keys", "string", "Keys that leave the session and let the container run", parse=running.checked_keys, single=True),
    Flag("sig-proxy", "bool", "Pass signals on to the process", default=True),
)

COMMAND = Command(
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container from an image and run it",
    run,
    flags=RUN_FLAGS,
    minimum=1,
    interspersed=False,
)
