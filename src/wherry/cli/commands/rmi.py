"""``wherry rmi``, ``wherry image rm``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.many import for_each, is_absent
from wherry.cli.platforms import platform_query
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    query: dict[str, Any] = {"force": invocation.flag("force"), "noprune": invocation.flag("no-prune")}
    query["platforms"] = [platform_query(text, "") for text in invocation.texts("platform")]

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
        Flag("platform", "list", "Remove only the given platform variant (os[/arch[/variant]])"),
    ),
    minimum=1,
)
