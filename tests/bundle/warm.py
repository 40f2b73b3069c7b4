"""A Python that has imported the command already and forks for each one: to start another takes 0.1 s of a processor, under emulation four.

What it forks has the caller's words, directory and descriptors, and no other.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from wherry.bundle import creation, execution, main, removal, reports, resources, running  # noqa: F401 -- what commands import when asked
from wherry.kernel import process
from wherry.runtime import channel

_TITLE_BYTES = 2000


class Warm:
    """The process and the line to it; `close` ends it."""

    def __init__(self) -> None:
        self._line, theirs = channel.pair()
        with theirs:
            command = [sys.executable, "-m", "tests.bundle.warm", str(theirs.fileno()), "-" * _TITLE_BYTES]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._line.settimeout(60)

    def call(self, words: Sequence[str], stdio: Sequence[int]) -> int:
        """The exit code of `wherry-runtime WORDS`."""
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            channel.send(self._line, {"words": list(words)}, [*stdio, directory])
        finally:
            os.close(directory)
        code: int = channel.receive(self._line)[0]["code"]
        return code

    def close(self) -> None:
        self._line.shutdown(socket.SHUT_RDWR)  # closing it would not do while a forked child holds it too
        self._line.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


def serve(line: socket.socket) -> None:
    area = process.argument_area()
    while True:
        try:
            message, fds = channel.receive(line)
        except channel.Closed:
            return
        child = os.fork()
        if child == 0:
            code = 255
            try:
                process.set_title(area, " ".join(["wherry-runtime", *message["words"]]))
                os.fchdir(fds[3])
                for number in range(3):
                    os.dup2(fds[number], number)
                process.close_range(3)
                code = main.main(message["words"])
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        channel.send(line, {"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' end is ours
    serve(socket.socket(fileno=int(sys.argv[1])))
