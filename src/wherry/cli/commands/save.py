"""``wherry save``."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.platforms import platform_query


def run(invocation: Invocation) -> int:
    target = invocation.text("output")
    if target:
        _check_target(target)
    elif sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    engine = invocation.program.engine
    query = {"names": invocation.arguments, "platform": platform_query(invocation.text("platform"))}
    response = engine.stream("GET", "/images/get", query)
    if target:
        _write_file(target, response.copy_to)
    else:
        response.copy_to(1)
    engine.done(response)
    return 0


def _check_target(path: str) -> None:
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise Failure(f"failed to save image: invalid output path: stat {folder}: no such file or directory")
    if os.path.isdir(path):
        raise Failure("failed to save image: cannot write to a directory")


def _write_file(path: str, copy_to: Callable[[int], object]) -> None:
    """Through a temporary file of the same directory, so that a failure leaves what was there."""
    special = os.path.exists(path) and not os.path.isfile(path)
    temporary = path if special else os.path.join(os.path.dirname(path), f".tmp-{os.path.basename(path)}{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        copy_to(descriptor)
        if not special:
            os.rename(temporary, path)
    except BaseException:
        if not special:
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    run,
    flags=(
        Flag("output", "string", "Write to a file, instead of STDOUT", short="o"),
        Flag("platform", "string", "Save only the given platform variant (os[/arch[/variant]])"),
    ),
    minimum=1,
)
