"""``wherry history``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.output import Listing, ago, rfc3339_local, shorten, size
from wherry.cli.platforms import platform_query
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*image.historyContext",
    {
        "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE",
        "Comment": "COMMENT",
    },
    ("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
)  # fmt: skip


def run(invocation: Invocation) -> int:
    query = {"platform": platform_query(invocation.text("platform"))}
    found = invocation.program.engine.get(f"/images/{quote(invocation.arguments[0], b'/:@')}/history", query) or []
    trunc = not invocation.flag("no-trunc")
    human = invocation.flag("human")
    rows = [_row(entry, trunc=trunc, human=human) for entry in found]
    layout = invocation.text("format")
    if invocation.flag("quiet") and layout in ("", "table"):
        sys.stdout.write("".join(row["ID"] + "\n" for row in rows))
        return 0
    fields = () if human else ("ID", "CreatedAt", "CreatedBy", "Size", "Comment")
    sys.stdout.write(LISTING.text(rows, layout, fields=fields))
    return 0


def _row(entry: dict[str, Any], *, trunc: bool, human: bool) -> dict[str, str]:
    ident = entry.get("Id") or "<missing>"
    by = (entry.get("CreatedBy") or "").replace("\t", " ")
    return {
        "ID": ident.removeprefix("sha256:")[:12] if trunc else ident,
        "CreatedSince": (ago(entry["Created"]) if entry["Created"] > 0 else "N/A") if human else rfc3339_local(entry["Created"]),
        "CreatedAt": rfc3339_local(entry["Created"]),
        "CreatedBy": shorten(by, 45) if trunc else by,
        "Size": size(entry["Size"], 3) if human else str(entry["Size"]),
        "Comment": entry.get("Comment") or "",
    }


COMMAND = Command(
    "[OPTIONS] IMAGE",
    "Show the history of an image",
    run,
    flags=(
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("human", "bool", "Print sizes and dates in human readable format", short="H", default=True),
        Flag("no-trunc", "bool", "Don't truncate output"),
        Flag("platform", "string", "Show history for the given platform (os[/arch[/variant]])"),
        Flag("quiet", "bool", "Only show image IDs", short="q"),
    ),
    minimum=1,
    maximum=1,
)
