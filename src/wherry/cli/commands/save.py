"""``wherry save``."""

from __future__ import annotations

import sys

from wherry.cli.atomic_file import check_target, writing
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.platforms import platform_query

WHAT = "failed to save image"


def run(invocation: Invocation) -> int:
    target = invocation.text("output")
    if target:
        check_target(target, WHAT)
    elif sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    engine = invocation.program.engine
    query = {"names": invocation.arguments, "platform": platform_query(invocation.text("platform"))}
    response = engine.stream("GET", "/images/get", query)
    if target:
        with writing(target, WHAT) as descriptor:
            response.copy_to(descriptor)
    else:
        response.copy_to(1)
    engine.done(response)
    return 0


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
