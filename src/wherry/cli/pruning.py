"""What a prune would remove, for ``--dry-run``."""

from __future__ import annotations

from wherry.cli.flags import Flag
from wherry.cli.output import size
from wherry.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from wherry.cli.flags import Invocation

DRY_RUN = Flag("dry-run", "bool", "Tell what would be removed, and remove nothing")
TITLES = {
    "ContainersDeleted": "containers",
    "NetworksDeleted": "networks",
    "VolumesDeleted": "volumes",
    "ImagesDeleted": "images",
    "CachesDeleted": "build cache objects",
}


def show_preview(invocation: Invocation, wanted: Mapping[str, Mapping[str, Any]], query: Mapping[str, object] | None = None) -> int:
    """Ask for ``wanted`` (kind -> filters) and print it."""
    chosen = {kind: jsontext.dump(conditions) for kind, conditions in wanted.items()}
    found = invocation.program.engine.get("/wherry/v1/prune", {**chosen, **(query or {})})
    for key, title in TITLES.items():
        if rows := found.get(key):
            print(f"Would remove {title}:\n" + "".join(f"{_row(row)}\n" for row in rows))
    print("Would reclaim space: " + size(found["SpaceReclaimed"]))
    return 0


def _row(row: Any) -> str:
    if isinstance(row, str):
        return row
    return f"untagged: {row['Untagged']}" if row.get("Untagged") else f"deleted: {row['Deleted']}"
