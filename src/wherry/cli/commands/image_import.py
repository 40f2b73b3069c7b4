"""``wherry import``."""

from __future__ import annotations

from wherry.cli.commands.load import open_source, pieces
from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.progress import show_stream
from wherry.cli.registry_auth import read_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def run(invocation: Invocation) -> int:
    source = invocation.arguments[0]
    name = invocation.arguments[1] if len(invocation.arguments) > 1 else None
    if name:
        read_reference(name)
    body: Iterator[bytes] | None = None
    if source == "-":
        body = pieces(0)
    elif not source.startswith(("http://", "https://")):
        body, source = pieces(open_source(source)), "-"
    query = {
        "fromSrc": source,
        "repo": name,
        "message": invocation.text("message") or None,
        "platform": invocation.text("platform") or None,
        "changes": invocation.texts("change"),
    }
    engine = invocation.program.engine
    response = engine.stream("POST", "/images/create", query, raw=body)
    show_stream(engine, response)
    return 0


COMMAND = Command(
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Import the contents from a tarball to create a filesystem image",
    run,
    flags=(
        Flag("change", "list", "Apply Dockerfile instruction to the created image", short="c"),
        Flag("message", "string", "Set commit message for imported image", short="m"),
        Flag("platform", "string", "Set platform if server is multi-platform capable"),
    ),
    minimum=1,
)
