"""``wherry image inspect``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.inspection import run_inspect
from wherry.cli.platforms import platform_query
from wherry.client.http import quote


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    query = {"platform": platform_query(invocation.text("platform"), "")}
    return run_inspect(
        invocation.text("format"), invocation.arguments, lambda name: engine.get(f"/images/{quote(name, b'/:@')}/json", query)
    )


COMMAND = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    run,
    flags=(
        Flag("format", "string", "json, or a Go template", short="f"),
        Flag("platform", "string", "Inspect a specific platform of the image (os[/arch[/variant]])"),
    ),
    minimum=1,
)
