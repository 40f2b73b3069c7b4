"""``wherry image inspect``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.inspection import run_inspect
from wherry.client.http import quote


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    return run_inspect(invocation.text("format"), invocation.arguments, lambda name: engine.get(f"/images/{quote(name, b'/:@')}/json"))


COMMAND = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    run,
    flags=(
        Flag("format", "string", "json, or a Go template", short="f"),
        Flag("platform", "string", "Inspect a platform of a multi-platform image", refused="an image holds one platform"),
    ),
    minimum=1,
)
