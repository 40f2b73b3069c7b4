"""The program's entry: finds the command (``cli/table.py``), runs it, and says what an error looks like."""

from __future__ import annotations

import sys

from wherry.cli.flags import MANY, Failure, HelpWanted, UsageFailure, parse, parse_flags
from wherry.cli.program import VERSION, Program
from wherry.cli.table import ABSENT, COMMANDS, GLOBAL_FLAGS, load, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from wherry.cli.flags import Command


LOG_LEVELS = ("panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")


def program() -> NoReturn:
    """The command without its shell script.  Ends without taking the interpreter apart, which costs as much as a request."""
    import os

    os._exit(complete())


def complete(words: Sequence[str] | None = None) -> int:
    """Run one command line and write out all it has to say; the exit code."""
    status = main(words)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = status or 1
    return status


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_standard_streams()
    try:
        return _dispatch(list(sys.argv[1:] if words is None else words))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet_exit()


def _open_standard_streams() -> None:
    """In place of what the shell has closed (``>&-``); their numbers too, or a socket of ours would take them."""
    import os

    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _dispatch(words: list[str]) -> int:
    values = {flag.name: flag.default for flag in GLOBAL_FLAGS}
    given: set[str] = set()
    try:
        words = parse_flags(GLOBAL_FLAGS, words, values, given, interspersed=False)
    except UsageFailure as failure:
        return _complain(
            f"{failure}\n\nUsage:  wherry [OPTIONS] COMMAND [ARG...]\n\nRun 'wherry --help' for more information", failure.status
        )
    except HelpWanted as wanted:
        return _help("", deprecated=wanted.deprecated)
    if str(values["log-level"]).lower() not in LOG_LEVELS:
        return _complain(f"Unable to parse logging level: {values['log-level']}", 1)
    if values["version"]:
        print(f"Wherry version {VERSION}, build {VERSION}")
        return 0
    if words[:1] == ["help"]:
        return _help_on(words[1:])
    path, rest = resolve(words)
    if path not in COMMANDS:
        return _not_a_command(path, rest)
    program = Program(values, given)
    try:
        return _run(load(path), path, rest, program)
    finally:
        program.close()


def _help_on(words: list[str]) -> int:
    path, rest = resolve(words)
    if path in COMMANDS:
        return _run(load(path), path, ["--help"], Program({}, set()))
    return _complain(f"unknown help topic: {' '.join(words)}", 1) if rest else _help(path, deprecated=False)


def _not_a_command(group: str, rest: list[str]) -> int:
    asked = next((word for word in rest if not word.startswith("-")), None)
    if asked is not None and not rest[0].startswith("-"):
        usage = f"Usage:  wherry {group}\n\n" if group else ""
        name = f"{group} " if group else ""
        if absent := ABSENT.get(name + asked):
            return _complain(f"wherry: there is no 'wherry {name}{asked}': {absent}", 1)
        return _complain(f"wherry: unknown command: wherry {name}{asked}\n\n{usage}Run 'wherry {name}--help' for more information", 1)
    for word in rest:
        if word in ("--help", "-h"):
            return _help(group, deprecated=word == "-h")
        kind = f"unknown flag: {word}" if word.startswith("--") else f"unknown shorthand flag: {word[1:2]!r} in {word}"
        return _complain(f"{kind}\n\nUsage:  wherry {group} COMMAND\n\nRun 'wherry {group} --help' for more information", 125)
    from wherry.cli import help as help_texts

    sys.stderr.write(help_texts.group_help(group) if group else help_texts.program_help())
    return 0


def _help(group: str, *, deprecated: bool) -> int:
    from wherry.cli import help as help_texts

    if deprecated:
        sys.stderr.write("Flag shorthand -h has been deprecated, use --help\n")
    sys.stdout.write(help_texts.group_help(group) if group else help_texts.program_help())
    return 0


def _run(command: Command, path: str, words: list[str], program: Program) -> int:
    try:
        invocation = parse(command, path, program, words)
    except UsageFailure as failure:
        prefix = "wherry: " if failure.prefixed else ""
        usage = f"Usage:  wherry {path} {command.usage}".rstrip()
        see = "See" if failure.prefixed and command.maximum == MANY else "Run"
        return _complain(f"{prefix}{failure}\n\n{usage}\n\n{see} 'wherry {path} --help' for more information", failure.status)
    except HelpWanted as wanted:
        from wherry.cli import help as help_texts

        if wanted.deprecated:
            sys.stderr.write("Flag shorthand -h has been deprecated, use --help\n")
        sys.stdout.write(help_texts.command_help(command, path))
        return 0
    except Failure as failure:
        return _complain(str(failure), failure.status)
    try:
        status = command.run(invocation)
        sys.stdout.flush()
    except Failure as failure:
        return _complain(str(failure), failure.status)
    except BrokenPipeError:
        raise
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        return _complain(message, 1)
    return status


def describe(error: BaseException) -> str | None:
    """What a person is told about an error of the client or the daemon; None for one that is a bug."""
    from wherry.client.engine import ApiError, InvalidName
    from wherry.client.http import BrokenOff, ConnectError, ProtocolError

    if isinstance(error, InvalidName):
        return str(error)
    if isinstance(error, ApiError | BrokenOff):
        return f"Error response from daemon: {error}"
    if isinstance(error, ConnectError):
        return str(error)
    if isinstance(error, ProtocolError):
        return f"error during connect: {error}"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return None


def _complain(message: str, status: int) -> int:
    sys.stdout.flush()
    if message:
        sys.stderr.write(message + "\n")
    return status


def _quiet_exit() -> int:
    """Standard output is gone: keep the interpreter from complaining about it while it ends."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1
