"""What the shell script ``bin/wherry`` starts where no server is to do the command: the command, and then a server for the next ones.

The script's words before the command's own: the directory where a server may be left, or nothing; and the descriptor of the environment
in hexadecimal, or nothing. A shell drops variables whose names it could not have (``my.setting``), and sets some of its own.
"""

from __future__ import annotations

import os
import sys

from wherry.cli.main import complete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def program() -> NoReturn:
    """Ends without taking the interpreter apart, which costs as much as a request."""
    script, directory, environment, *words = sys.argv
    sys.argv[1:] = words
    with open("/proc/self/comm", "w") as name:
        name.write("wherry")
    if environment:
        _restore(int(environment))
    status = complete(words)
    if directory:
        _leave_server(directory, script)
    os._exit(status)


def _restore(descriptor: int) -> None:
    from wherry.warm import environment

    with open(descriptor, "rb") as file:
        if text := file.read():  # else the tool that writes it is missing
            environment.replace(environment.parse(bytes.fromhex(text.decode())))


def _leave_server(directory: str, script: str) -> None:
    """A server has Python's own settings and paths, and root's rights: nobody else gets one."""
    from wherry.warm import environment, leaving

    if os.geteuid() or environment.concerns_python(os.environb):
        return
    kept = {name: os.environ[name] for name in ("HOME",) if name in os.environ}  # where a user's own packages are
    try:
        home = os.path.dirname(os.path.abspath(script))
        leaving.leave(os.path.abspath(directory), (sys.executable, "-P", "-m", "wherry.cli.server", home), kept)
    except OSError:
        return  # the command has done its work
