"""A command that asks nobody, run ahead of a real one: its code is then known to the interpreter, and its memory is the process's own.

In the server it lets the interpreter specialise that code before anything is forked; in a waiting worker it makes the pages private that
a command will write to.
"""

from __future__ import annotations

import _socket

from wherry.cli import creation
from wherry.cli.flags import parse
from wherry.cli.program import Program
from wherry.cli.session import Demultiplexer
from wherry.cli.table import GLOBAL_FLAGS, load
from wherry.client import jsontext
from wherry.client.engine import container_path, query_string
from wherry.client.http import Connection

_WORDS = {
    "run": ("--rm", "--name", "rehearsal", "--network", "none", "--env", "A=b", "-p", "80:80", "-v", "/:/here", "image", "true"),
    "exec": ("--env", "A=b", "container", "true"),
}
_ANSWER = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n{"Id":"0","Warnings":[]}'
_FRAME = b"\1\0\0\0\0\0\0\2a\n"


def command() -> None:
    """Parse command lines, make a request of one, and read an answer and a frame of output."""
    values = {flag.name: flag.default for flag in GLOBAL_FLAGS} | {"config": "/nonexistent"}
    for path, words in _WORDS.items():
        invocation = parse(load(path), path, Program(values, {"config"}), list(words))
        if path == "run":
            _exchange(jsontext.dump(creation.body_of(invocation)).encode())
    Demultiplexer(None, None).feed(memoryview(_FRAME))


def _exchange(body: bytes) -> None:
    ours, theirs = _socket.socketpair()
    theirs.send(_ANSWER)
    target = container_path("rehearsal", "create") + query_string({"name": "rehearsal", "platform": None})
    jsontext.parse(Connection(ours, "rehearsal").request("POST", target, {"Content-Type": "application/json"}, body).read())
    ours.close()
    theirs.close()
