"""``wherry container prune``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation, filters
from wherry.cli.output import size
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview


def run(invocation: Invocation) -> int:
    if invocation.flag("dry-run"):
        return show_preview(invocation, {"containers": filters(invocation.texts("filter"))})
    if not invocation.flag("force") and not confirm("WARNING! This will remove all stopped containers."):
        return 0
    report = invocation.program.engine.post("/containers/prune", {"filters": filters(invocation.texts("filter"))}) or {}
    deleted = report.get("ContainersDeleted") or ()
    if deleted:
        print("Deleted Containers:\n" + "".join(f"{ident}\n" for ident in deleted))
    print("Total reclaimed space: " + size(report.get("SpaceReclaimed") or 0))
    return 0


COMMAND = Command(
    "[OPTIONS]",
    "Remove all stopped containers",
    run,
    flags=(
        DRY_RUN,
        Flag("filter", "filter", "Condition, such as until=TIMESTAMP"),
        Flag("force", "bool", "Do not ask", short="f"),
    ),
    maximum=0,
)
