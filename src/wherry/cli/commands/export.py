"""``wherry export``."""

from __future__ import annotations

from wherry.cli import terminal
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.engine import container_path


def run(invocation: Invocation) -> int:
    output = invocation.text("output")
    if not output and terminal.is_terminal(1):
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    engine = invocation.program.engine
    if not output:
        engine.stream("GET", container_path(invocation.arguments[0], "export")).copy_to(1)
        return 0
    from wherry.cli.atomic_file import writing

    response = engine.stream("GET", container_path(invocation.arguments[0], "export"))
    with writing(output, "failed to export container") as descriptor:
        response.copy_to(descriptor)
    return 0


COMMAND = Command(
    "[OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    run,
    flags=(Flag("output", "string", "Write to a file in place of standard output", short="o"),),
    minimum=1,
    maximum=1,
)
