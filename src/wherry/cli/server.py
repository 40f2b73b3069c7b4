"""A warm interpreter for ``wherry``: `wherry.warm.serving` with workers that do a command in the place of the script, ``bin/wherry``.

What a command can see of its process is taken over: words, environment, directory, standard descriptors, limits, umask, ignored signals,
priorities. A caller that differs in what cannot be (`caller.world`, a locale that is not UTF-8, settings of Python, other descriptors by
name) starts Python itself. So does one with a terminal: job control is between a terminal and its own processes.
"""

from __future__ import annotations

import gc
import importlib
import io
import locale
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from wherry.cli import main, rehearsal, terminal
from wherry.cli.flags import HelpWanted, UsageFailure, parse_flags
from wherry.cli.table import COMMANDS, GLOBAL_FLAGS, load, resolve
from wherry.kernel import process
from wherry.warm import caller, environment, serving, working
from wherry.warm.caller import Unlike
from wherry.warm.working import Request

NAME = "wherry-cli"
_PROCESSES = ("daemon", "bootstrap", "registry")  # commands that are a process of their own, and run for long
_FORWARDING = ("run", "start", "attach")  # these pass signals on even where they were ignored: a shell cannot
_LATER = ("termios", *(f"wherry.cli.{name}" for name in "context_tar help output progress pulling session template".split()))
_OWN_DESCRIPTORS = (b"/dev/fd/", b"/proc/self", b"/proc/thread-self")
_C_LOCALES = ("", "C", "POSIX", "C.UTF-8", "C.utf8", "UTF-8")
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
_MOST_MEMORY_KIB = 96 << 10  # a worker that a command has made bigger is given up
_INTERRUPTED = 130
_SPECIALISED = 16  # calls after which the interpreter has made up its mind.  Source: CPython 3.11, Include/internal/pycore_code.h
_VARIABLES = {b"REHEARSAL_%d" % number: b"value" for number in range(50)}


def serve(home: str, directory: str) -> None:
    """For those whose script is in ``home``."""
    os.chdir("/")
    for path in COMMANDS:
        if path.split()[0] not in _PROCESSES:
            load(path)
    for name in _LATER:
        importlib.import_module(name)
    own = caller.world(os.getpid(), caller.read(os.getpid(), "status"))
    for _ in range(_SPECIALISED):
        _rehearse()
    serving.serve(directory, home, NAME, lambda line, ahead: _live(line, own, ahead=ahead))


def _live(line: socket.socket, own: Mapping[str, object], *, ahead: bool) -> None:
    process.set_name("wherry")
    signal.signal(signal.SIGURG, _be_nudged)
    if ahead:
        _rehearse()
    gc.enable()
    working.live(line, lambda: None, lambda request, _: _work(request, own))


def _be_nudged(number: int, frame: object) -> None:
    """Nothing; but a call that waits returns, and a signal that came just before it began is taken too."""


def _rehearse() -> None:
    """What `_work` will do, with ourselves for the caller and a command that asks nobody."""
    pid = os.getpid()
    status = caller.read(pid, "status")
    caller.world(pid, status)
    variables = environment.parse(caller.read(pid, "environ"))
    ignored = caller.ignored_signals(status)
    _check_command(["exec", "container", "true"], ignored)
    caller.take_place(pid)
    environment.replace(variables | _VARIABLES)
    environment.replace(variables)
    _errors_of_locale()
    _begin_python("surrogateescape", [])
    rehearsal.command()


def _work(request: Request, own: Mapping[str, object]) -> tuple[int, bool]:
    """Do the caller's command in its place; its exit code, and whether we can do another's.  Raises Unlike, OSError before it is begun."""
    modules = len(sys.modules)
    words, ignored, lasting = _take_place(request, own)
    os.write(request.slot, b"worker %d\n" % os.getpid())
    try:
        code = main.complete(words)
        sys.stdout.flush()  # what could not be written must not come to the next caller
        sys.stderr.flush()
    except BrokenPipeError:
        return code, False
    except BaseException:  # noqa: BLE001 -- the edge of the process
        sys.excepthook(*sys.exc_info())
        return 1, False
    lasting = lasting and code != _INTERRUPTED and len(sys.modules) == modules and _is_small()
    return code, _give_signals_back(ignored) and lasting


def _is_small() -> bool:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < _MOST_MEMORY_KIB


def _take_place(request: Request, own: Mapping[str, object]) -> tuple[list[str], set[int], bool]:
    """The caller's words, after we have become like it; the signals it ignores; whether all that does not stay.  Raises Unlike, OSError."""
    pid, count = request.caller, int(request.rest[0])
    caller.check_asks(pid, request.slot)
    raw = caller.read(pid, "cmdline").split(b"\0")[:-1]
    words = [os.fsdecode(word) for word in raw[len(raw) - count :]] if count else []
    block = caller.read(pid, "environ")
    variables = environment.parse(block)
    status = caller.read(pid, "status")
    ignored = caller.ignored_signals(status) - _IGNORED_BY_PYTHON
    if len(words) != count or any(name in text for name in _OWN_DESCRIPTORS for text in (*raw, block)):
        raise Unlike
    if environment.concerns_python(variables):
        raise Unlike
    _check_command(words, ignored)
    if caller.world(pid, status) != own:
        raise Unlike
    caller.take_descriptors(pid)
    lasting = caller.take_place(pid)
    os.umask(caller.umask(status))
    environment.replace(variables)
    time.tzset()
    _take_signals(ignored, request.slot)
    _begin_python(_errors_of_locale(), words)
    return words, ignored, lasting


def _check_command(words: list[str], ignored: set[int]) -> None:
    """Raises Unlike for a command that wants to be the caller itself."""
    try:
        path, rest = resolve(parse_flags(GLOBAL_FLAGS, list(words), {}, set(), interspersed=False))
    except (UsageFailure, HelpWanted):
        return
    first, _, last = path.rpartition(" ")
    if (first or last) in _PROCESSES:
        raise Unlike
    if last in _FORWARDING and rest[:1] not in (["-d"], ["--detach"]) and ignored & set(terminal.FORWARDED):
        raise Unlike


def _take_signals(ignored: set[int], slot: int) -> None:
    def stop(number: int, frame: object) -> None:
        os.write(slot, b"stop\n")

    signal.signal(signal.SIGTSTP, stop)  # without a terminal its usual effect is none
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def _give_signals_back(ignored: set[int]) -> bool:
    """Whether the command left the signals alone."""
    handlers = {number: signal.getsignal(number) for number in (*ignored, *terminal.FORWARDED) if number != signal.SIGTSTP}
    for number in ignored:
        signal.signal(number, _usual(number))
    return all(handler == (signal.SIG_IGN if number in ignored else _usual(number)) for number, handler in handlers.items())


def _usual(number: int) -> Callable[[int, FrameType | None], Any] | signal.Handlers:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _errors_of_locale() -> str:
    """How Python treats what is not UTF-8 on standard input and output.  Raises Unlike for a locale with other characters.

    Source: Python/initconfig.c, get_stdio_errors; PEP 538, 540.
    """
    name = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""
    if name in _C_LOCALES:
        return "surrogateescape"
    if name.partition(".")[2].partition("@")[0].lower() not in ("utf-8", "utf8"):
        raise Unlike
    former = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        return "surrogateescape"
    locale.setlocale(locale.LC_CTYPE, former)
    return "strict"


def _begin_python(errors: str, words: list[str]) -> None:
    """What the interpreter does before it runs a program."""
    sys.argv = ["wherry", *words]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.stdin = open(0, encoding="utf-8", errors=errors, newline="\n", closefd=False)
    buffering, through = (0, True) if os.environ.get("PYTHONUNBUFFERED") else (-1, False)
    out, err = (open(number, "wb", buffering, closefd=False) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(out, "utf-8", errors, "\n", write_through=through)
    sys.stderr = io.TextIOWrapper(err, "utf-8", "backslashreplace", "\n", line_buffering=True, write_through=through)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
