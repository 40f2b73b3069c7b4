"""``wherry start``."""

from __future__ import annotations

import sys

from wherry.cli import running
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.main import describe
from wherry.client.engine import ApiError, container_path


def run(invocation: Invocation) -> int:
    if invocation.flag("attach") or invocation.flag("interactive"):
        return _attached(invocation)
    failed = []
    for name in invocation.arguments:
        try:
            invocation.program.engine.post(container_path(name, "start"))
        except ApiError as error:
            sys.stdout.flush()
            print(describe(error), file=sys.stderr)
            failed.append(name)
        else:
            print(name)
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(invocation: Invocation) -> int:
    if len(invocation.arguments) > 1:
        raise Failure("you cannot start and attach multiple containers at once")
    program = invocation.program
    facts = program.engine.get(container_path(invocation.arguments[0], "json"))
    config = facts["Config"]
    stdin = invocation.flag("interactive") and config["OpenStdin"]
    return running.start_attached(
        program,
        facts["Id"],
        stdin=stdin,
        stdout=True,
        stderr=True,
        tty=config["Tty"],
        remove=facts["HostConfig"]["AutoRemove"],
        keys=running.keys_of(invocation),
        proxy=invocation.flag("sig-proxy") and not config["Tty"],  # as Docker's; its run passes a terminal's signals on too
    )


COMMAND = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    run,
    flags=(
        Flag("attach", "bool", "Attach standard output and error, and pass signals on", short="a"),
        Flag("checkpoint", "string", hidden=True, refused="there are no checkpoints"),
        Flag("checkpoint-dir", "string", hidden=True, refused="there are no checkpoints"),
        Flag("detach-keys", "string", "Keys that leave the session and let the container run", parse=running.checked_keys, single=True),
        Flag("interactive", "bool", "Attach standard input", short="i"),
        Flag("sig-proxy", "bool", "Pass signals on to the process", default=True, hidden=True),
    ),
    minimum=1,
)
