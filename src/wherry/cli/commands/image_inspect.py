"""``wherry image inspect``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.inspection import run_inspect
from wherry.cli.platforms import platform_query
from wherry.client.http import quote


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    query = {"platform": platform_query(invocation.text("platform"), "")}

    def fetch(name: str) -> object:
        if not name:
            raise Failure("Error: No such image: ")
        return engine.get(f"/images/{quote(name, b'/:@')}/json", query)

    return run_inspect(invocation.text("format"), invocation.arguments, fetch)


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
