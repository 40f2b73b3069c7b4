"""``wherry rmi``, ``wherry image rm``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.many import for_each, is_absent
from wherry.client.http import quote


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    query = {"force": invocation.flag("force"), "noprune": invocation.flag("no-prune")}

    def remove(name: str) -> str:
        gone = engine.delete(f"/images/{quote(name, b'/:@')}", query) or []
        return "\n".join(f"Deleted: {item['Deleted']}" if item.get("Deleted") else f"Untagged: {item['Untagged']}" for item in gone)

    return for_each(invocation.arguments, remove, tolerate=is_absent if query["force"] else None)


COMMAND = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    run,
    flags=(
        Flag("force", "bool", "Force removal of the image", short="f"),
        Flag("no-prune", "bool", "Do not delete untagged parents"),
        Flag("platform", "list", "Remove only the given platform variant", refused="an image holds one platform"),
    ),
    minimum=1,
)
