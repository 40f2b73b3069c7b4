"""``wherry image diff``: what differs between two images."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.output import Listing, escape, size
from wherry.cli.records import batches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*wherry.imageDiffContext",
    {
        "Change": "CHANGE", "Path": "PATH", "Type": "TYPE", "Before": "BEFORE", "After": "AFTER", "Bytes": "BYTES", "Differs": "DIFFERS",
    },
    ("Change", "Path"),
)  # fmt: skip


def run(invocation: Invocation) -> int:
    old, new = invocation.arguments
    engine, layout = invocation.program.engine, invocation.text("format")
    response = engine.stream("GET", "/wherry/v1/images/diff", {"from": old, "to": new})
    first = True
    try:
        for batch in batches(response):
            rows = [_row(entry) for entry in batch]
            if layout:
                text = LISTING.text(rows, layout)
                tabular = layout == "table" or layout.startswith("table ")
                sys.stdout.write(text if first or not tabular else text.partition("\n")[2])
            else:
                sys.stdout.write("".join(_line(row) for row in rows))
            first = False
    finally:
        engine.done(response)
    return 0


def _line(row: dict[str, str]) -> str:
    note = f" ({row['Differs']})" if row["Differs"] else ""
    return f"{row['Change']} {escape(row['Path'])}{note}\n"


def _row(entry: dict[str, Any]) -> dict[str, str]:
    return {
        "Change": entry["Change"],
        "Path": entry["Path"],
        "Type": entry["Type"],
        "Before": size(entry["SizeBefore"], 3),
        "After": size(entry["Size"], 3),
        "Bytes": str(entry["Size"] - entry["SizeBefore"]),
        "Differs": ",".join(entry.get("Differs") or ()),
    }


COMMAND = Command(
    "[OPTIONS] IMAGE IMAGE",
    "List the files that differ between two images: added (A), changed (C), deleted (D)",
    run,
    flags=(Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),),
    minimum=2,
    maximum=2,
)
