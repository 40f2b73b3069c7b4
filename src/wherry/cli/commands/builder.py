"""``wherry builder prune`` and ``wherry builder du``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation, filters
from wherry.cli.output import Listing, ago, parse_time, size
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*formatter.buildCacheContext",
    {
        "ID": "ID", "Reclaimable": "RECLAIMABLE", "Size": "SIZE", "LastUsedSince": "LAST ACCESSED", "CacheType": "CACHE TYPE",
        "CreatedSince": "CREATED", "UsageCount": "USAGE", "Shared": "SHARED", "InUse": "IN USE", "Description": "DESCRIPTION",
    },
    ("ID", "Reclaimable", "Size", "LastUsedSince"),
)  # fmt: skip


def run_prune(invocation: Invocation) -> int:
    everything = invocation.flag("all")
    sizes = {flag: invocation.number(flag) or None for flag in ("reserved-space", "max-used-space", "min-free-space")}
    if invocation.flag("dry-run"):
        return show_preview(invocation, {"build-cache": filters(invocation.texts("filter"))}, {"all": everything, **sizes})
    what = "all build cache" if everything else "all dangling build cache"
    if not invocation.flag("force") and not confirm(f"WARNING! This will remove {what}. Are you sure you want to continue? [y/N] ", ""):
        return 0
    query: dict[str, Any] = {"all": everything, "filters": filters(invocation.texts("filter")), **sizes}
    report = invocation.program.engine.post("/build/prune", query) or {}
    if report.get("CachesDeleted"):
        print("Deleted build cache objects:\n" + "\n".join(report["CachesDeleted"]) + "\n")
    print("Total reclaimed space: " + size(report.get("SpaceReclaimed") or 0))
    return 0


def run_usage(invocation: Invocation) -> int:
    answer = invocation.program.engine.get("/system/df", {"type": "build-cache"}) or {}
    found = answer.get("BuildCache") or []
    sys.stdout.write(LISTING.text([_row(record) for record in found], invocation.text("format")))
    if not invocation.text("format"):
        free = sum(record["Size"] for record in found if not record.get("InUse") and not record.get("Shared"))
        sys.stdout.write(f"Reclaimable:\t{size(free)}\nTotal:\t\t{size(sum(record['Size'] for record in found))}\n")
    return 0


def _row(record: dict[str, Any]) -> dict[str, str]:
    used, created = record.get("LastUsedAt"), record.get("CreatedAt")
    return {
        "ID": record["ID"],
        "Reclaimable": "false" if record.get("InUse") else "true",
        "Size": size(record["Size"]),
        "LastUsedSince": ago(parse_time(used)) if used else "",
        "CacheType": record.get("Type") or "",
        "CreatedSince": ago(parse_time(created)) if created else "",
        "UsageCount": str(record.get("UsageCount") or 0),
        "Shared": "true" if record.get("Shared") else "false",
        "InUse": "true" if record.get("InUse") else "false",
        "Description": record.get("Description") or "",
    }


PRUNE = Command(
    "[OPTIONS]",
    "Remove build cache",
    run_prune,
    flags=(
        DRY_RUN,
        Flag("all", "bool", "Remove all unused build cache, not just dangling ones", short="a"),
        Flag("filter", "filter", 'Provide filter values (e.g. "until=24h")'),
        Flag("force", "bool", "Do not prompt for confirmation", short="f"),
        Flag("keep-storage", "bytes", "Amount of disk space to keep for cache", alias_of="reserved-space"),
        Flag("max-used-space", "bytes", "Maximum amount of disk space allowed to keep for cache"),
        Flag("min-free-space", "bytes", "Target amount of free disk space after pruning"),
        Flag("reserved-space", "bytes", "Amount of disk space always allowed to keep for cache"),
    ),
    maximum=0,
)
DU = Command(
    "[OPTIONS]",
    "Show the disk usage of the build cache",
    run_usage,
    flags=(
        Flag("filter", "filter", "Provide filter values", refused="the engine does not filter its build cache"),
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("verbose", "bool", "Provide a more verbose output", refused="use --format json"),
    ),
    maximum=0,
)
