"""``wherry search``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation, filters
from wherry.cli.output import Listing, shorten
from wherry.cli.registry_auth import auth_headers, read_reference

LISTING = Listing(
    "*formatter.searchContext",
    {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED"},
    ("Name", "Description", "StarCount", "IsOfficial"),
)


def run(invocation: Invocation) -> int:
    term = invocation.arguments[0]
    wanted = filters(invocation.texts("filter"))
    query = {"term": term, "limit": limit if (limit := invocation.number("limit")) > 0 else None, "filters": wanted}
    engine = invocation.program.engine
    domain = read_reference(term).domain if "/" in term else "docker.io"
    found = engine.call("GET", "/images/search", query, headers=auth_headers(invocation.program, domain)) or []
    rows = []
    for item in found:
        about = " ".join((item.get("description") or "").split())
        rows.append(
            {
                "Name": item.get("name") or "",
                "Description": about if invocation.flag("no-trunc") else shorten(about, 45),
                "StarCount": str(item.get("star_count") or 0),
                "IsOfficial": "[OK]" if item.get("is_official") else "",
                "IsAutomated": "[OK]" if item.get("is_automated") else "",
            }
        )
    sys.stdout.write(LISTING.text(rows, invocation.text("format")))
    return 0


COMMAND = Command(
    "[OPTIONS] TERM",
    "Search Docker Hub for images",
    run,
    flags=(
        Flag("filter", "filter", "Filter output based on conditions provided", short="f"),
        Flag("format", "string", "Pretty-print search using a Go template"),
        Flag("limit", "int", "Max number of search results"),
        Flag("no-trunc", "bool", "Don't truncate output"),
    ),
    minimum=1,
    maximum=1,
)
