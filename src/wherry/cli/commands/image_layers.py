"""``wherry image layers``: what each layer does, and which of its bytes nobody sees."""

from __future__ import annotations

import heapq
import sys

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.output import Listing, shorten, size, table
from wherry.cli.records import batches
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*wherry.layerContext",
    {
        "Layer": "LAYER", "DiffID": "DIFF ID", "Size": "SIZE", "Added": "ADDED", "Changed": "CHANGED", "Deleted": "DELETED",
        "Wasted": "WASTED", "CreatedBy": "CREATED BY",
    },
    ("Layer", "DiffID", "Size", "Added", "Changed", "Deleted", "Wasted", "CreatedBy"),
)  # fmt: skip
SHOWN = 20


def run(invocation: Invocation) -> int:
    engine = invocation.program.engine
    path = f"/wherry/v1/images/{quote(invocation.arguments[0], b'/:@')}"
    report = engine.get(f"{path}/layers")
    trunc = not invocation.flag("no-trunc")
    sys.stdout.write(LISTING.text([_row(layer, trunc=trunc) for layer in report["Layers"]], invocation.text("format")))
    if invocation.flag("waste"):
        sys.stdout.flush()
        response = engine.stream("GET", f"{path}/waste")
        try:
            _show_waste(report, response, everything=not trunc)
        finally:
            engine.done(response)
    return 0


def _show_waste(report: dict[str, Any], response: Any, *, everything: bool) -> None:
    """The largest wasted files, or all of them as they come, then the sum."""
    largest: list[tuple[int, int, dict[str, Any]]] = []
    count = 0
    for batch in batches(response):
        for found in batch:
            count += 1
            item = found["Size"], -count, found
            if everything or len(largest) < SHOWN:
                heapq.heappush(largest, item)
            else:
                heapq.heappushpop(largest, item)
    rows = [("SIZE", "LAYER", "BY", "PATH")]
    for _, _, found in sorted(largest, reverse=True):
        how = "changed in" if found["Change"] == "C" else "deleted in"
        rows.append((size(found["Size"], 3), str(found["Layer"]), f"{how} {found['By']}", found["Path"]))
    sys.stdout.write("\n" + table(rows))
    if count > len(largest):
        sys.stdout.write(f"and {count - len(largest)} more (--no-trunc shows all)\n")
    total, wasted = report["Size"], report["Wasted"]
    share = f", {wasted * 100 / total:.2g}% of the image" if total else ""
    sys.stdout.write(f"\n{size(wasted)} wasted in {count} {'file' if count == 1 else 'files'}{share}\n")


def _row(layer: dict[str, Any], *, trunc: bool) -> dict[str, str]:
    by = layer["CreatedBy"].replace("\t", " ")
    return {
        "Layer": str(layer["Layer"]),
        "DiffID": layer["DiffID"].removeprefix("sha256:")[:12] if trunc else layer["DiffID"],
        "Size": size(layer["Size"], 3),
        "Added": str(layer["Added"]),
        "Changed": str(layer["Changed"]),
        "Deleted": str(layer["Deleted"]),
        "Wasted": size(layer["Wasted"], 3),
        "CreatedBy": shorten(by, 45) if trunc else by,
    }


COMMAND = Command(
    "[OPTIONS] IMAGE",
    "Show what each layer of an image adds, changes, deletes and wastes",
    run,
    flags=(
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("no-trunc", "bool", "Don't truncate output"),
        Flag("waste", "bool", "Also list the files that later layers change or delete, the largest first"),
    ),
    minimum=1,
    maximum=1,
)
