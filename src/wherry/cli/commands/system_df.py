"""``wherry system df``."""

from __future__ import annotations

import sys

from wherry.cli.commands.images import NEVER, image_rows
from wherry.cli.commands.ps import container_row
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.output import Listing, ago, go_time, parse_time, print_formatted, size, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

LISTING = Listing(
    "*formatter.diskUsageContext",
    {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"},
    ("Type", "TotalCount", "Active", "Size", "Reclaimable"),
)


def run(invocation: Invocation) -> int:
    layout = invocation.text("format")
    if invocation.flag("on-disk"):
        return show_disk(invocation, layout)
    found = invocation.program.engine.get("/system/df")
    if not invocation.flag("verbose"):
        sys.stdout.write(LISTING.text(list(summary(found)), layout))
    elif layout not in ("", "table"):
        print_formatted(layout, rows(found))
    else:
        sys.stdout.write("\n".join(sections(found)))
    return 0


def show_disk(invocation: Invocation, layout: str) -> int:
    """Every byte of the data root by what it is for; the sum is what du says."""
    if layout not in ("", "table", "json") or invocation.flag("verbose"):
        raise Failure("wherry: --on-disk takes no --verbose, and of formats table and json")
    found = invocation.program.engine.get("/wherry/v1/disk")
    if layout == "json":
        from wherry.client import jsontext

        print(jsontext.dump(found))
        return 0
    rows = [(part["Name"], str(part["Objects"] or ""), size(part["Size"])) for part in found["Parts"]]
    sys.stdout.write(table([("FOR", "OBJECTS", "SIZE ON DISK"), *rows, (f"all of {found['Root']}", "", size(found["Total"]))]))
    return 0


def summary(found: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One row for images, containers, volumes and the build cache."""
    images = found.get("Images") or ()
    layers = found.get("LayersSize") or 0
    used = sum(image["Size"] - max(image["SharedSize"], 0) for image in images if image["Containers"] > 0)
    yield _row("Images", len(images), sum(image["Containers"] > 0 for image in images), layers, layers - used, percent=True)
    containers = found.get("Containers") or ()
    sizes = [(item.get("SizeRw") or 0, item["State"] in ("running", "paused", "restarting")) for item in containers]
    total, idle = sum(number for number, _ in sizes), sum(number for number, active in sizes if not active)
    yield _row("Containers", len(sizes), sum(active for _, active in sizes), total, idle, percent=True)
    usages = [volume.get("UsageData") or {"Size": 0, "RefCount": 0} for volume in found.get("Volumes") or ()]
    total = sum(max(usage["Size"], 0) for usage in usages)
    idle = sum(max(usage["Size"], 0) for usage in usages if not usage["RefCount"])
    yield _row("Local Volumes", len(usages), sum(usage["RefCount"] > 0 for usage in usages), total, idle, percent=True)
    cache = found.get("BuildCache") or ()
    total = sum(item["Size"] for item in cache if not item.get("Shared"))
    idle = sum(item["Size"] for item in cache if not item.get("Shared") and not item.get("InUse"))
    yield _row("Build Cache", len(cache), sum(bool(item.get("InUse")) for item in cache), total, idle, percent=False)


def _row(kind: str, count: int, active: int, total: int, idle: int, *, percent: bool) -> dict[str, str]:
    share = f" ({idle * 100 // total}%)" if percent and total > 0 else ""
    return {"Type": kind, "TotalCount": str(count), "Active": str(active), "Size": size(total), "Reclaimable": size(idle) + share}


def rows(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every object as Docker's ``--format json`` shows it."""
    from wherry.cli.commands.volume import volume_row

    found_rows = {
        "Images": [next(image_rows(image, trunc=False, digests=False)) | {"Digest": ""} for image in found.get("Images") or ()],
        "Containers": [_container_row(item, trunc=False) for item in found.get("Containers") or ()],
        "Volumes": [volume_row(volume) for volume in found.get("Volumes") or ()],
        "BuildCache": [_cache_row(item) for item in found.get("BuildCache") or ()],
    }
    return {kind: [{name: row[name] for name in sorted(row)} for row in listed] for kind, listed in found_rows.items()}


def _container_row(item: Mapping[str, Any], *, trunc: bool) -> dict[str, Any]:
    """As ``ps`` shows it, but for its virtual size."""
    return container_row({**item, "SizeRootFs": 0}, trunc=trunc)


def _cache_row(item: Mapping[str, Any]) -> dict[str, str]:
    used = item.get("LastUsedAt") or ""
    return {
        "ID": item["ID"],
        "Parent": item.get("Parent") or "",
        "CacheType": item["Type"],
        "Description": item.get("Description") or "",
        "InUse": "true" if item.get("InUse") else "false",
        "Shared": "true" if item.get("Shared") else "false",
        "Size": size(item["Size"], 3),
        "CreatedAt": go_time(item["CreatedAt"]),
        "CreatedSince": ago(parse_time(item["CreatedAt"])),
        "LastUsedAt": go_time(used),
        "LastUsedSince": ago(parse_time(used)) if used else "",
        "UsageCount": str(item.get("UsageCount", 0)),
    }


def sections(found: Mapping[str, Any]) -> Iterator[str]:
    """The four tables of ``-v``, each under its title."""
    titles = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS")
    yield "Images space usage:\n\n" + table([titles, *map(_image, found.get("Images") or ())])
    titles = ("CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES")
    yield "Containers space usage:\n\n" + table([titles, *map(_container, found.get("Containers") or ())])
    rows = [(item["Name"], *_usage(item.get("UsageData"))) for item in found.get("Volumes") or ()]
    yield "Local Volumes space usage:\n\n" + table([("VOLUME NAME", "LINKS", "SIZE"), *rows])
    cache = found.get("BuildCache") or ()
    total = sum(item["Size"] for item in cache if not item.get("Shared"))
    columns = ("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED")
    yield f"Build cache usage: {size(total)}\n\n" + table([columns, *map(_cached, cache)])


def _image(item: Mapping[str, Any]) -> Sequence[str]:
    repository, _, tag = (item.get("RepoTags") or ["<none>:<none>"])[0].rpartition(":")
    shared = max(item["SharedSize"], 0)
    ident = item["Id"].removeprefix("sha256:")[:12]
    sizes = (size(item["Size"], 3), size(shared), size(item["Size"] - shared))
    created = "" if item["Created"] == NEVER else ago(item["Created"])
    return (repository, tag, ident, created, *sizes, str(item["Containers"]))


def _container(item: Mapping[str, Any]) -> Sequence[str]:
    row = _container_row(item, trunc=True)
    return [row[key] for key in ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")]


def _usage(usage: Mapping[str, int] | None) -> tuple[str, str]:
    return (str(usage["RefCount"]), size(usage["Size"])) if usage else ("0", "N/A")


def _cached(item: Mapping[str, Any]) -> Sequence[str]:
    used = item.get("LastUsedAt")
    created, last = ago(parse_time(item["CreatedAt"])), ago(parse_time(used)) if used else ""
    ident = item["ID"][:12] + ("*" if item.get("InUse") else "")
    shared = "true" if item.get("Shared") else "false"
    return (ident, item["Type"], size(item["Size"], 3), created, last, str(item.get("UsageCount", 0)), shared)


COMMAND = Command(
    "[OPTIONS]",
    "Show how much disk space the engine uses",
    run,
    flags=(
        Flag("format", "string", "json, table, table TEMPLATE, or a Go template"),
        Flag("on-disk", "bool", "Show what every byte of the data root is for, as du counts"),
        Flag("verbose", "bool", "Show every object", short="v"),
    ),
    maximum=0,
)
