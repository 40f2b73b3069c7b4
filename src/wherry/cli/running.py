"""Sessions with containers: attach before start, the exit code from wait, resize and signals over the API."""

from __future__ import annotations

from wherry.cli import terminal
from wherry.cli.flags import Failure, Invocation
from wherry.client import jsontext
from wherry.client.engine import ApiError, container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.program import Program
    from wherry.client.http import Response


DETACHED = "read escape sequence"


class InputNotTerminal(Failure):
    """``-t`` without a terminal on standard input."""


def load_session() -> None:
    """Import what a session needs; to be done while the daemon does something else."""
    import wherry.cli.session  # noqa: F401


def check_terminal(*, stdin: bool, tty: bool) -> None:
    if tty and stdin and not terminal.is_terminal(0):
        raise InputNotTerminal("the input device is not a TTY")


def checked_keys(text: str) -> str:
    """A ``--detach-keys`` value that can be read.  Raises ValueError."""
    terminal.detach_keys(text)
    return text


def keys_of(invocation: Invocation) -> str:
    """The detach keys in force: the flag's, config.json's, or "" for the default."""
    return invocation.text("detach-keys") or str(invocation.program.config().get("detachKeys") or "")


def start_attached(
    program: Program, ident: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, remove: bool, keys: str, proxy: bool
) -> int:
    """Attach, wait, start, and stay until the end; the container's exit code, or 0 after detaching."""
    from wherry.cli.session import Session

    engine = program.engine
    stream = waiting = None

    def wait() -> None:
        nonlocal waiting
        waiting = engine.stream("POST", container_path(ident, "wait"), {"condition": "removed" if remove else "next-exit"})

    if stdin or stdout or stderr:
        query = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "detachKeys": keys or None}
        stream = engine.hijack("POST", container_path(ident, "attach"), query, meanwhile=wait)
    else:
        wait()
    assert waiting is not None
    engine.post(container_path(ident, "start"))
    if stream is not None:
        forward = (lambda number: _kill(program, ident, number)) if proxy else None
        session = Session(
            stream,
            stdin=stdin,
            tty=tty,
            stdout=stdout,
            stderr=stderr,
            keys=terminal.detach_keys(keys),
            resize=lambda rows, columns: resize(program, container_path(ident, "resize"), rows, columns),
            forward=forward,
        )
        session.run()
        if session.detached or session.given_up:
            return int(session.given_up)
    return exit_code(waiting)


def attach(program: Program, ident: str, *, stdin: bool, tty: bool, keys: str, proxy: bool, repaint: bool) -> int:
    """Join a running container; its exit code.  ``repaint``: change the size twice, so that a screen is redrawn.

    Raises Failure after detaching, as Docker's attach and exec do, where run and start do not.
    """
    from wherry.cli.session import Session

    engine = program.engine
    waiting = engine.stream("POST", container_path(ident, "wait"))
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys or None}
    stream = engine.hijack("POST", container_path(ident, "attach"), query)
    path = container_path(ident, "resize")
    if repaint and (found := terminal.size(1)):
        resize(program, path, found[0] + 1, found[1] + 1)
    session = Session(
        stream,
        stdin=stdin,
        tty=tty,
        keys=terminal.detach_keys(keys),
        resize=lambda rows, columns: resize(program, path, rows, columns),
        forward=(lambda number: _kill(program, ident, number)) if proxy and not tty else None,
    )
    session.run()
    if session.detached:
        raise Failure(DETACHED)
    return 1 if session.given_up else exit_code(waiting)


def exit_code(waiting: Response) -> int:
    """The code that a wait request answers in the end.  Raises Failure when waiting itself failed."""
    answer = jsontext.parse(waiting.read())
    problem = (answer.get("Error") or {}).get("Message")
    if problem:
        raise Failure(f"Error waiting for container: {problem}", 125)
    return int(answer["StatusCode"])


def resize(program: Program, path: str, rows: int, columns: int) -> None:
    """Tell the daemon the size of our terminal; a process that has ended already needs none."""
    try:
        program.engine.post(path, {"h": rows, "w": columns})
    except ApiError:
        return


def _kill(program: Program, ident: str, number: int) -> None:
    try:
        program.engine.post(container_path(ident, "kill"), {"signal": number})
    except ApiError:
        return  # it has ended meanwhile
