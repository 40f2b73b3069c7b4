"""``wherry ps``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.cli.output import Listing, ago, local_time, shorten, size
from wherry.cli.ports import displayed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LISTING = Listing(
    "*formatter.ContainerContext",
    {
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "State": "STATE",
        "Ports": "PORTS",
        "Names": "NAMES",
        "Size": "SIZE",
        "Labels": "LABELS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Mounts": "MOUNTS",
        "Networks": "NETWORKS",
        "Platform": "PLATFORM",
    },
    ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
    (
        ("container_id", "ID"),
        ("image", "Image"),
        ("command", "Command"),
        ("created_at", "CreatedAt"),
        ("state", "State"),
        ("status", "Status"),
        ("names", "Names"),
        ("labels", "Labels"),
        ("ports", "Ports"),
    ),
)


def run(invocation: Invocation) -> int:
    layout = invocation.text("format") or str(invocation.program.config().get("psFormat") or "")
    quiet = invocation.flag("quiet")
    if quiet and invocation.text("format"):
        print("WARNING: Ignoring custom format, because both --format and --quiet are set.", file=sys.stderr)
    last = 1 if invocation.flag("latest") else invocation.number("last")
    sizes = invocation.flag("size")
    query = {
        "all": invocation.flag("all"),
        "limit": last if last > 0 else None,
        "size": sizes or ((".Size" in layout or "json ." in layout) and not quiet),
        "filters": filters(invocation.texts("filter")),
    }
    found = invocation.program.engine.get("/containers/json", query) or []
    trunc = not invocation.flag("no-trunc")
    if quiet:
        before = "container_id: " if layout == "raw" else ""
        sys.stdout.write("".join(f"{before}{item['Id'][:12] if trunc else item['Id']}\n" for item in found))
        return 0
    rows = [container_row(item, trunc=trunc) for item in found]
    try:
        sys.stdout.write(LISTING.text(rows, layout, fields=(*LISTING.default, "Size") if sizes else (), methods=_methods))
    except Failure as error:  # Docker tries the template of this command apart, and says so in other words
        reason = str(error).removeprefix("template parsing error: ")
        raise Failure(f"failed to {'execute' if 'executing' in reason else 'parse'} template: {reason}") from None
    return 0


def container_row(item: Mapping[str, Any], *, trunc: bool) -> dict[str, Any]:
    """One container of GET /containers/json as the cells of a table."""
    created = item["Created"]
    mounts = item.get("Mounts") or ()
    labels = item.get("Labels") or {}
    return {
        "ID": item["Id"][:12] if trunc else item["Id"],
        "Image": _image(item, trunc=trunc),
        "Command": _quoted(shorten(item["Command"], 20) if trunc else item["Command"]),
        "CreatedAt": local_time(created),
        "RunningFor": ago(created),
        "Status": item["Status"],
        "State": item["State"],
        "Ports": displayed(item.get("Ports") or ()),
        "Names": _names(item["Names"], trunc=trunc),
        "Size": _size(item),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Mounts": ",".join(_mount_name(mount, trunc=trunc) for mount in mounts),
        "Networks": ",".join(sorted((item.get("NetworkSettings") or {}).get("Networks") or ())),
        "Platform": None,
    }


def _methods(row: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    known = dict(pair.partition("=")[::2] for pair in row["Labels"].split(",") if pair)
    return {"Label": lambda name: known.get(name, "")}


def _image(item: Mapping[str, Any], *, trunc: bool) -> str:
    image: str = item.get("Image") or "<no image>"
    if not trunc:
        return image
    if image.startswith("sha256:") or item.get("ImageID", "").removeprefix("sha256:") == image:
        return image.removeprefix("sha256:")[:12]
    return image.partition("@")[0]


def _names(names: list[str], *, trunc: bool) -> str:
    plain = [name.removeprefix("/") for name in names]
    return ",".join([name for name in plain if "/" not in name][:1] if trunc else plain)


def _mount_name(mount: Mapping[str, str], *, trunc: bool) -> str:
    name = mount.get("Name") or mount.get("Source") or ""
    return shorten(name, 15) if trunc else name


def _size(item: Mapping[str, Any]) -> str:
    written = size(item.get("SizeRw") or 0, 3)
    virtual = item.get("SizeRootFs") or 0
    return f"{written} (virtual {size(virtual, 3)})" if virtual > 0 else written


def _quoted(text: str) -> str:
    from wherry.cli.template_tokens import quote

    return quote(text)


COMMAND = Command(
    "[OPTIONS]",
    "List containers",
    run,
    flags=(
        Flag("all", "bool", "Show all containers, not only those that run", short="a"),
        Flag("filter", "filter", "Condition KEY=VALUE", short="f"),
        Flag("format", "string", "json, table, table TEMPLATE, or a Go template"),
        Flag("last", "int", "Show the last N containers created, in any state", short="n", default=-1),
        Flag("latest", "bool", "Show the latest container created", short="l"),
        Flag("no-trunc", "bool", "Cut nothing short"),
        Flag("quiet", "bool", "Show ids only", short="q"),
        Flag("size", "bool", "Show sizes", short="s"),
    ),
    maximum=0,
)
