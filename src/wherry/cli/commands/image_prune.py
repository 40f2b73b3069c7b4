"""``wherry image prune``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation, filters
from wherry.cli.output import size
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    everything = invocation.flag("all")
    what = "all images without at least one container associated to them" if everything else "all dangling images"
    wanted = filters(invocation.texts("filter"))
    wanted["dangling"] = {"false" if everything else "true": True}
    if invocation.flag("dry-run"):
        return show_preview(invocation, {"images": wanted})
    if not invocation.flag("force") and not confirm(f"WARNING! This will remove {what}."):
        return 0
    report = invocation.program.engine.post("/images/prune", {"filters": wanted}) or {}
    text = deleted_images(report)
    if text:
        print(text)
    print("Total reclaimed space: " + size(report.get("SpaceReclaimed") or 0))
    return 0


def deleted_images(report: dict[str, Any]) -> str:
    """What a prune of images removed, as it is listed; empty when nothing."""
    gone = report.get("ImagesDeleted") or []
    if not gone:
        return ""
    lines = [f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item['Deleted']}" for item in gone]
    return "Deleted Images:\n" + "\n".join(lines) + "\n"


COMMAND = Command(
    "[OPTIONS]",
    "Remove unused images",
    run,
    flags=(
        DRY_RUN,
        Flag("all", "bool", "Remove all unused images, not just dangling ones", short="a"),
        Flag("filter", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
        Flag("force", "bool", "Do not prompt for confirmation", short="f"),
    ),
    maximum=0,
)
