"""``wherry volume ...``."""

from __future__ import annotations

import sys

from wherry.cli import environment
from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.cli.inspection import run_inspect
from wherry.cli.many import for_each
from wherry.cli.output import Listing, size
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*formatter.volumeContext",
    {
        "Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Labels": "LABELS", "Mountpoint": "MOUNTPOINT", "Links": "LINKS",
        "Size": "SIZE", "Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS",
    },
    ("Driver", "Name"),
)  # fmt: skip
CLUSTER = "cluster volumes belong to Swarm"


def pairs(words: list[str]) -> dict[str, str]:
    """``key=value`` words as a map; a key alone has an empty value."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def run_create(invocation: Invocation) -> int:
    body = {
        "Name": invocation.arguments[0] if invocation.arguments else "",
        "Driver": invocation.text("driver"),
        "DriverOpts": pairs(invocation.texts("opt")),
        "Labels": pairs(invocation.texts("label")),
    }
    print(invocation.program.engine.post("/volumes/create", None, body)["Name"])
    return 0


def run_list(invocation: Invocation) -> int:
    answer = invocation.program.engine.get("/volumes", {"filters": filters(invocation.texts("filter"))}) or {}
    found = sorted(answer.get("Volumes") or [], key=lambda volume: natural(volume["Name"]))
    layout = invocation.text("format") or str(invocation.program.config().get("volumesFormat") or "")
    if invocation.flag("quiet") and not invocation.text("format"):
        sys.stdout.write("".join(volume["Name"] + "\n" for volume in found))
        return 0
    rows = [volume_row(volume) for volume in found]
    sys.stdout.write(LISTING.text(rows, layout, methods=label_method))
    return 0


def volume_row(volume: dict[str, Any]) -> dict[str, str]:
    """The fields of one volume as the table and templates show them."""
    usage = volume.get("UsageData")
    return {
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume.get("Scope") or "",
        "Labels": joined(volume.get("Labels")),
        "Mountpoint": volume.get("Mountpoint") or "",
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": size(usage["Size"]) if usage else "N/A",
        "Group": "N/A",
        "Availability": "N/A",
        "Status": "N/A",
    }


def joined(labels: dict[str, str] | None) -> str:
    """Labels in one cell."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def label_method(row: Any) -> dict[str, Any]:
    """``{{.Label "name"}}`` of a row with labels."""
    known = pairs(row["Labels"].split(",")) if row["Labels"] else {}
    return {"Label": lambda name: known.get(name, "")}


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``v2`` before ``v10``."""
    out: list[tuple[int, int, str]] = []
    digits = ""
    for char in [*text, ""]:
        if char.isdecimal():
            digits += char
            continue
        if digits:
            out.append((0, int(digits), digits))
            digits = ""
        out.append((1, 0, char))
    return out


def run_inspect_volumes(invocation: Invocation) -> int:
    engine = invocation.program.engine
    return run_inspect(invocation.text("format"), invocation.arguments, lambda name: engine.get(f"/volumes/{quote(name)}"), "volume.Volume")


def run_remove(invocation: Invocation) -> int:
    engine = invocation.program.engine

    def remove(name: str) -> str:
        engine.delete(f"/volumes/{quote(name)}", {"force": invocation.flag("force")})
        return name

    return for_each(invocation.arguments, remove)


def run_prune(invocation: Invocation) -> int:
    wanted = filters(invocation.texts("filter"))
    if invocation.flag("all"):
        if "all" in wanted:
            raise Failure("conflicting options: cannot specify both --all and --filter all=1")
        wanted["all"] = {"true": True}
    if invocation.flag("dry-run"):
        return show_preview(invocation, {"volumes": wanted})
    what = "all local volumes" if invocation.flag("all") else "anonymous local volumes"
    if not invocation.flag("force") and not confirm(f"WARNING! This will remove {what} not used by at least one container."):
        return 0
    report = invocation.program.engine.post("/volumes/prune", {"filters": wanted}) or {}
    if report.get("VolumesDeleted"):
        print("Deleted Volumes:\n" + "\n".join(report["VolumesDeleted"]) + "\n")
    print("Total reclaimed space: " + size(report.get("SpaceReclaimed") or 0))
    return 0


CREATE = Command(
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    run_create,
    flags=(
        Flag("driver", "string", "Specify volume driver name", short="d", default="local"),
        Flag("label", "list", "Set metadata for a volume", parse=environment.label),
        Flag("opt", "map", "Set driver specific options", short="o"),
        Flag("availability", "string", "Cluster volume availability", default="active", hidden=True, refused=CLUSTER),
        Flag("group", "string", "Cluster volume group", hidden=True, refused=CLUSTER),
        Flag("scope", "string", "Cluster volume access scope", default="single", hidden=True, refused=CLUSTER),
        Flag("sharing", "string", "Cluster volume access sharing", default="none", hidden=True, refused=CLUSTER),
        Flag("secret", "map", "Cluster volume secrets", hidden=True, refused=CLUSTER),
        Flag("type", "string", "Cluster volume access type", default="block", hidden=True, refused=CLUSTER),
    ),
    maximum=1,
)
LS = Command(
    "[OPTIONS]",
    "List volumes",
    run_list,
    flags=(
        Flag("cluster", "bool", "Display only cluster volumes", hidden=True, refused=CLUSTER),
        Flag("filter", "filter", 'Provide filter values (e.g. "dangling=true")', short="f"),
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("quiet", "bool", "Only display volume names", short="q"),
    ),
    maximum=0,
)
INSPECT = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    run_inspect_volumes,
    flags=(Flag("format", "string", "json, or a Go template", short="f"),),
    minimum=1,
)
RM = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    run_remove,
    flags=(Flag("force", "bool", "Force the removal of one or more volumes", short="f"),),
    minimum=1,
)
PRUNE = Command(
    "[OPTIONS]",
    "Remove unused local volumes",
    run_prune,
    flags=(
        DRY_RUN,
        Flag("all", "bool", "Remove all unused volumes, not just anonymous ones", short="a"),
        Flag("filter", "filter", 'Provide filter values (e.g. "label=<label>")'),
        Flag("force", "bool", "Do not prompt for confirmation", short="f"),
    ),
    maximum=0,
)
