"""``wherry attach``."""

from __future__ import annotations

from wherry.cli import running, terminal
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.engine import container_path


def run(invocation: Invocation) -> int:
    program = invocation.program
    facts = program.engine.get(container_path(invocation.arguments[0], "json"))
    _check(facts["State"])
    config = facts["Config"]
    stdin = config["OpenStdin"] and not invocation.flag("no-stdin")
    running.check_terminal(stdin=stdin, tty=config["Tty"])
    return running.attach(
        program,
        facts["Id"],
        stdin=stdin,
        tty=config["Tty"],
        keys=running.keys_of(invocation),
        proxy=invocation.flag("sig-proxy"),
        repaint=config["Tty"] and terminal.is_terminal(1),
    )


def _check(state: dict[str, object]) -> None:
    if not state["Running"]:
        raise Failure("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise Failure("You cannot attach to a restarting container, wait until it is running")


COMMAND = Command(
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    run,
    flags=(
        Flag("detach-keys", "string", "Keys that leave the session and let the container run", parse=running.checked_keys, single=True),
        Flag("no-stdin", "bool", "Do not attach standard input"),
        Flag("sig-proxy", "bool", "Pass signals on to the process", default=True),
    ),
    minimum=1,
    maximum=1,
)
