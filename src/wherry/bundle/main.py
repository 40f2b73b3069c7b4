"""The command ``wherry-runtime``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wherry.bundle import commandline
from wherry.bundle.commandline import Command
from wherry.bundle.failures import Failure
from wherry.bundle.journal import Journal

if TYPE_CHECKING:
    from wherry.bundle.builder import Reserve


def program() -> None:
    """Never returns."""
    _complete_stdio()
    sys.exit(main(sys.argv[1:]))


def _complete_stdio() -> None:
    """What the caller closed of descriptors 0 to 2 is the null device: else what is opened next is the program's input or output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


def main(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    try:
        command = commandline.parse(words)
    except Failure as failure:
        return _give_up(failure)
    return perform(command)


def perform(command: Command, reserve: Reserve | None = None) -> int:
    """The exit code of a command.  ``reserve``: for a ``run``."""
    try:
        journal = Journal(command.settings)
    except Failure as failure:
        return _give_up(failure)
    try:
        _check(command)
        return _run(command, journal, reserve)
    except Failure as failure:
        journal.error(
            f"{command.verb} failed: {failure.message}" if command.verb in ("create", "run", "exec", "start") else failure.message
        )
        return failure.code
    except OSError as error:
        journal.error(f"{command.verb}: {error.strerror}: {error.filename}" if error.filename else f"{command.verb}: {error}")
        return 1


def _give_up(failure: Failure) -> int:
    """Before there is a journal."""
    print(failure.message, file=sys.stderr)
    return failure.code


def _check(command: Command) -> None:
    if command.settings["systemd-cgroup"]:
        raise Failure("--systemd-cgroup is not supported: use the cgroupfs driver of control groups")
    if command.settings["rootless"] not in ("auto", "false"):
        raise Failure("--rootless is not supported: this runtime needs root")
    if command.verb not in ("help", "version", "features", "spec") and os.geteuid():
        raise Failure("wherry-runtime needs root")


def _run(command: Command, journal: Journal, reserve: Reserve | None) -> int:
    options, arguments = command.options, command.arguments
    root = os.path.abspath(command.settings["root"])
    ident = arguments[0] if arguments else ""
    match command.verb:
        case "run":
            from wherry.bundle import running

            code = running.run(root, ident, options, journal, reserve)
            _leave_server(command.settings["server"])
            return code
        case "create":
            from wherry.bundle import creation

            creation.create(root, ident, options, journal, here=False)
        case "start":
            from wherry.bundle import running

            running.start(root, ident, journal)
        case "exec":
            from wherry.bundle import execution

            return execution.execute(root, arguments, options, journal)
        case "kill" | "delete":
            from wherry.bundle import removal

            if command.verb == "kill":
                removal.kill(root, ident, arguments[1] if len(arguments) > 1 else "", every=options["all"])
            else:
                removal.delete(root, ident, journal, force=options["force"])
        case _:
            _report(command, root, ident)
    return 0


def _leave_server(where: str) -> None:
    directory, _, home = where.partition(":")
    if directory:
        from wherry.bundle import server

        with contextlib.suppress(OSError):  # the container has run: that no server can be left is no failure of it
            server.start(directory, home)


def _report(command: Command, root: str, ident: str) -> None:
    from wherry.bundle import reports, resources

    options = command.options
    match command.verb:
        case "pause":
            resources.pause(root, ident)
        case "resume":
            resources.resume(root, ident)
        case "update":
            resources.update(root, ident, options)
        case "events":
            resources.events(root, ident, options)
        case "ps":
            if len(command.arguments) > 1:
                raise Failure("ps: options of ps are not supported: the table is always the same")
            _print(resources.processes(root, ident, options["format"]))
        case "state":
            _print(reports.state(root, ident))
        case "list":
            _print(reports.listing(root, options["format"], quiet=options["quiet"]))
        case "features":
            _print(reports.features())
        case "spec":
            reports.write_spec(options["bundle"], rootless=options["rootless"])
        case "version":
            _print(reports.version())
        case _:
            _print(commandline.help_text(ident))


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    program()
