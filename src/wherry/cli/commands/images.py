"""``wherry images``, ``wherry image ls``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.cli.output import Listing, ago, local_time, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NONE = "<none>"
NEVER = -62135596800  # the year 1: Go's zero time
LISTING = Listing(
    "*formatter.imageContext",
    {
        "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT", "Size": "SIZE",
        "Containers": "CONTAINERS", "VirtualSize": "SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
    },
    ("Repository", "Tag", "ID", "CreatedSince", "Size"),
    (
        ("repository", "Repository"), ("tag", "Tag"), ("image_id", "ID"), ("created_at", "CreatedAt"), ("virtual_size", "Size"),
    ),
)  # fmt: skip


def run(invocation: Invocation) -> int:
    wanted = filters(invocation.texts("filter"))
    if invocation.arguments and invocation.arguments[0]:
        wanted.setdefault("reference", {})[invocation.arguments[0]] = True
    digests = invocation.flag("digests")
    layout = invocation.text("format")
    if invocation.flag("tree"):
        _refuse_with_tree(invocation)
    found = invocation.program.engine.get("/images/json", {"all": invocation.flag("all"), "filters": wanted}) or []
    if invocation.flag("tree"):
        from wherry.cli.image_tree import show

        show(found, every=invocation.flag("all"))
        return 0
    rows = [
        row for image in found for row in image_rows(image, trunc=not invocation.flag("no-trunc"), digests=digests or ".Digest" in layout)
    ]
    if invocation.flag("quiet") and layout in ("", "table"):
        sys.stdout.write("".join(row["ID"] + "\n" for row in rows))
        return 0
    if invocation.flag("quiet") and layout == "raw":
        layout = "image_id: {{.ID}}"
    fields = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size") if digests else ()
    layout = layout or _configured(invocation)
    if layout in ("", "table"):
        rows = [row | {"CreatedSince": row["CreatedSince"] or "N/A"} for row in rows]
    sys.stdout.write(LISTING.text(rows, layout, fields=fields))
    return 0


def _configured(invocation: Invocation) -> str:
    return str(invocation.program.config().get("imagesFormat") or "")


def image_rows(image: dict[str, Any], *, trunc: bool, digests: bool) -> Iterator[dict[str, str]]:
    """One row for each tag of an image, and for each digest of a repository without one; ``<none>`` when it has neither."""
    ident = image["Id"].removeprefix("sha256:")[:12] if trunc else image["Id"]
    tags: dict[str, list[str]] = {}
    for name in image.get("RepoTags") or ():
        if name != "<none>:<none>":
            repository, _, tag = name.rpartition(":")
            tags.setdefault(repository, []).append(tag)
    known: dict[str, list[str]] = {}
    for name in image.get("RepoDigests") or ():
        if name != "<none>@<none>":
            repository, _, digest = name.partition("@")
            known.setdefault(repository, []).append(digest)
    if not tags and not known:
        yield _row(image, ident, NONE, NONE, NONE)
    for repository in dict.fromkeys([*tags, *known]):
        for tag in tags.get(repository, [] if digests else [NONE]):
            for digest in known.get(repository, [NONE]) if digests else [NONE]:
                yield _row(image, ident, repository, tag, digest)
        if digests and repository not in tags:
            for digest in known[repository]:
                yield _row(image, ident, repository, NONE, digest)


def _row(image: dict[str, Any], ident: str, repository: str, tag: str, digest: str) -> dict[str, str]:
    containers = image.get("Containers", -1)
    shared = image.get("SharedSize", -1)
    return {
        "ID": ident,
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "CreatedSince": "" if image["Created"] == NEVER else ago(image["Created"]),
        "CreatedAt": local_time(image["Created"]),
        "Size": size(image["Size"], 3),
        "Containers": "N/A" if containers == -1 else str(containers),
        "VirtualSize": size(image["Size"]),
        "SharedSize": "N/A" if shared == -1 else size(shared),
        "UniqueSize": "N/A" if shared == -1 else size(image["Size"] - shared),
    }


def _refuse_with_tree(invocation: Invocation) -> None:
    for name, shown in (("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest"), ("format", "format")):
        if invocation.value(name):
            raise Failure(f"--{shown} is not yet supported with --tree")


COMMAND = Command(
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    run,
    flags=(
        Flag("all", "bool", "Show all images (default hides intermediate images)", short="a"),
        Flag("digests", "bool", "Show digests"),
        Flag("filter", "filter", "Filter output based on conditions provided", short="f"),
        Flag("format", "string", "table, table TEMPLATE, json, raw, or a Go template"),
        Flag("no-trunc", "bool", "Don't truncate output"),
        Flag("quiet", "bool", "Only show image IDs", short="q"),
        Flag("tree", "bool", "List multi-platform images as a tree (experimental)"),
    ),
    maximum=1,
)
