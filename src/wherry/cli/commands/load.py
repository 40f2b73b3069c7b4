"""``wherry load``."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.platforms import platform_query
from wherry.cli.progress import show_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20


def run(invocation: Invocation) -> int:
    path = invocation.text("input")
    descriptor = open_source(path) if path else 0
    if not path and sys.stdin.isatty():
        raise Failure("requested load from stdin, but stdin is empty")
    engine = invocation.program.engine
    query = {"quiet": "1" if invocation.flag("quiet") or not sys.stdout.isatty() else "0"}
    query |= {"platform": chosen} if (chosen := platform_query(invocation.text("platform"))) else {}
    response = engine.stream("POST", "/images/load", query, raw=pieces(descriptor))
    if response.media_type == "application/json":
        show_stream(engine, response)
    else:
        response.copy_to(1)
        engine.done(response)
    return 0


def open_source(path: str) -> int:
    """A descriptor of the file at ``path``.  Raises Failure in Docker's words."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or '').lower()}") from None
    if os.path.isdir(path):
        os.close(descriptor)
        raise Failure(f"read {path}: is a directory")
    return descriptor


def pieces(descriptor: int) -> Iterator[bytes]:
    """What can be read from ``descriptor``, closed at the end unless it is stdin."""
    while data := os.read(descriptor, PIECE):
        yield data
    if descriptor:
        os.close(descriptor)


COMMAND = Command(
    "[OPTIONS]",
    "Load an image from a tar archive or STDIN",
    run,
    flags=(
        Flag("input", "string", "Read from tar archive file, instead of STDIN", short="i"),
        Flag("platform", "string", "Load only the given platform variant (os[/arch[/variant]])"),
        Flag("quiet", "bool", "Suppress the load output", short="q"),
    ),
    maximum=0,
)
