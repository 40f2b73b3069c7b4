"""``wherry system prune``, and ``wherry prune``."""

from __future__ import annotations

from wherry.cli.commands.image_prune import deleted_images
from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.cli.output import size
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    wanted = filters(invocation.texts("filter"))
    if invocation.flag("volumes") and "until" in wanted:
        raise Failure('ERROR: The "until" filter is not supported with "--volumes"')
    everything = invocation.flag("all")
    if invocation.flag("dry-run"):
        chosen = {"containers": wanted, "networks": wanted, **({"volumes": wanted} if invocation.flag("volumes") else {})}
        chosen["images"] = {**wanted, "dangling": {"false" if everything else "true": True}}
        return show_preview(invocation, {**chosen, "build-cache": _cache_filters(wanted)}, {"all": everything})
    if not invocation.flag("force") and not confirm(_warning(invocation), "Are you sure you want to continue? [y/N] "):
        return 0
    engine = invocation.program.engine
    plans: list[tuple[str, str, dict[str, Any]]] = [
        ("/containers/prune", "ContainersDeleted", wanted),
        ("/networks/prune", "NetworksDeleted", wanted),
    ]
    if invocation.flag("volumes"):
        plans.append(("/volumes/prune", "VolumesDeleted", wanted))
    plans.append(("/images/prune", "ImagesDeleted", {**wanted, "dangling": {"false" if everything else "true": True}}))
    plans.append(("/build/prune", "CachesDeleted", _cache_filters(wanted)))
    total = 0
    for path, key, chosen in plans:
        report = engine.post(path, {"filters": chosen, "all": everything and key == "CachesDeleted"}) or {}
        total += report.get("SpaceReclaimed") or 0
        text = deleted_images(report) if key == "ImagesDeleted" else _deleted(key, report.get(key) or ())
        if text:
            print(text)
    print("Total reclaimed space: " + size(total))
    return 0


def _cache_filters(wanted: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wanted.items() if key == "until"}


def _warning(invocation: Invocation) -> str:
    everything = invocation.flag("all")
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if invocation.flag("volumes"):
        lines.append("all anonymous volumes not used by at least one container")
    lines.append("all images without at least one container associated to them" if everything else "all dangling images")
    lines.append("all build cache" if everything else "unused build cache")
    text = "WARNING! This will remove:\n" + "".join(f"  - {line}\n" for line in lines) + "\n"
    if chosen := invocation.texts("filter"):
        text += "  Items to be pruned will be filtered with:\n" + "".join(f"  - {word}\n" for word in sorted(chosen)) + "\n"
    return text


def _deleted(key: str, names: Any) -> str:
    title = "build cache objects" if key == "CachesDeleted" else key.removesuffix("Deleted")
    return f"Deleted {title}:\n" + "".join(f"{name}\n" for name in names) if names else ""


COMMAND = Command(
    "[OPTIONS]",
    "Remove unused data",
    run,
    flags=(
        DRY_RUN,
        Flag("all", "bool", "Remove all unused images, not only dangling ones", short="a"),
        Flag("filter", "filter", "Condition, such as label=KEY=VALUE"),
        Flag("force", "bool", "Do not ask", short="f"),
        Flag("volumes", "bool", "Remove unused anonymous volumes too"),
    ),
    maximum=0,
)
