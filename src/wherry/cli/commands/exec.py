"""``wherry exec``."""

from __future__ import annotations

from wherry.cli import environment, running, terminal
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.engine import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.program import Program


def run(invocation: Invocation) -> int:
    container, *words = invocation.arguments
    detach = invocation.flag("detach")
    tty = invocation.flag("tty")
    stdin = invocation.flag("interactive") and not detach
    running.check_terminal(stdin=stdin, tty=tty)
    keys = running.keys_of(invocation)
    try:
        env = environment.variables(invocation.texts("env-file"), invocation.texts("env"))
    except Failure as failure:
        raise Failure(str(failure)) from None  # with a code of its own where `run` has 125
    body = {
        "User": invocation.text("user"),
        "Privileged": invocation.flag("privileged"),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys,
        "Env": env or None,
        "WorkingDir": invocation.text("workdir"),
        "Cmd": words,
    }
    size = terminal.size(1) if tty else None
    console = {"ConsoleSize": list(size)} if size else {}
    program = invocation.program
    meanwhile = None if detach else running.load_session
    ident = program.engine.post(container_path(container, "exec"), None, {**body, **console}, meanwhile=meanwhile)["Id"]
    if detach:
        program.engine.post(f"/exec/{ident}/start", None, {"Detach": True, "Tty": tty})
        return 0
    return _attached(program, ident, {"Detach": False, "Tty": tty, **console}, stdin=stdin, keys=keys)


def _attached(program: Program, ident: str, body: dict[str, Any], *, stdin: bool, keys: str) -> int:
    from wherry.cli.session import Session

    tty: bool = body["Tty"]
    session = Session(
        program.engine.hijack("POST", f"/exec/{ident}/start", None, body),
        stdin=stdin,
        tty=tty,
        keys=terminal.detach_keys(keys),
        resize=lambda rows, columns: running.resize(program, f"/exec/{ident}/resize", rows, columns),
    )
    session.run()
    if session.detached:
        raise Failure(running.DETACHED)
    return program.engine.get(f"/exec/{ident}/json")["ExitCode"] or 0


COMMAND = Command(
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    run,
    flags=(
        Flag("detach", "bool", "Run the command in the background", short="d"),
        Flag("detach-keys", "string", "Keys that leave the session and let the command run"),
        Flag("env", "list", "Variable KEY=VALUE; KEY alone is taken from here", short="e", parse=environment.variable),
        Flag("env-file", "list", "File of KEY=VALUE lines"),
        Flag("interactive", "bool", "Keep standard input open", short="i"),
        Flag("privileged", "bool", "Give the command all rights on the host's kernel"),
        Flag("tty", "bool", "Give the command a terminal", short="t"),
        Flag("user", "string", "User (and group), NAME|UID[:GROUP|GID]", short="u"),
        Flag("workdir", "string", "Working directory", short="w"),
    ),
    minimum=2,
    interspersed=False,
)
