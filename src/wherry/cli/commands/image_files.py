"""``wherry image files``: what is in an image, without running it."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.output import Listing, escape, size
from wherry.cli.records import batches
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

LISTING = Listing(
    "*wherry.fileContext",
    {
        "Change": "CHANGE", "Mode": "MODE", "Owner": "OWNER", "Size": "SIZE", "Bytes": "BYTES", "Layer": "LAYER", "Modified": "MODIFIED",
        "Path": "PATH", "Target": "TARGET", "Type": "TYPE", "Links": "LINKS",
    },
    ("Mode", "Owner", "Size", "Layer", "Path"),
)  # fmt: skip
WIDTHS = {"Change": 9, "Mode": 13, "Owner": 14, "Size": 10, "Layer": 8}  # rows are shown as they come, before all are known
KINDS = {"directory": "d", "symlink": "l", "character": "c", "block": "b", "fifo": "p", "socket": "s"}


def run(invocation: Invocation) -> int:
    engine, layer = invocation.program.engine, invocation.number("layer")
    if layer < 1 and "layer" in invocation.given:
        raise Failure("layers are numbered from 1, the base")
    if invocation.flag("tree") and invocation.text("format"):
        raise Failure("--tree and --format cannot be used together")
    path = f"/wherry/v1/images/{quote(invocation.arguments[0], b'/:@')}/files"
    response = engine.stream("GET", path, {"layer": layer or None})
    fields = ("Change", "Mode", "Owner", "Size", "Path") if layer else LISTING.default
    show = _tree if invocation.flag("tree") else _table(invocation.text("format"), fields)
    try:
        for batch in batches(response):
            sys.stdout.write(show(batch))
    finally:
        engine.done(response)
    return 0


def _table(layout: str, fields: Sequence[str]) -> Callable[[list[dict[str, Any]]], str]:
    """What turns each batch into text; the titles come with the first."""
    titles = [True]

    def show(batch: list[dict[str, Any]]) -> str:
        rows = [row(entry) for entry in batch]
        if layout not in ("", "table"):
            text = LISTING.text(rows, layout)
            if not titles[0] and layout.startswith("table "):
                text = text.partition("\n")[2]
            titles[0] = False
            return text
        head = _line({name: LISTING.titles[name] for name in fields}, fields) if titles[0] else ""
        titles[0] = False
        return head + "".join(_line(one | {"Path": _with_target(one)}, fields) for one in rows)

    return show


def _line(one: dict[str, str], fields: Sequence[str]) -> str:
    return "".join(escape(one[name]).ljust(WIDTHS[name] - 1) + " " for name in fields[:-1]) + escape(one[fields[-1]]) + "\n"


def _with_target(one: dict[str, str]) -> str:
    return f"{one['Path']} -> {one['Target']}" if one["Target"] else one["Path"]


def _tree(batch: list[dict[str, Any]]) -> str:
    """Names indented under their directory, which always comes before them."""
    lines = []
    for entry in batch:
        one = row(entry)
        above, _, name = one["Path"].rpartition("/")
        mark = f"{one['Change']} " if one["Change"] else ""
        note = f" -> {one['Target']}" if one["Target"] else "/" if one["Type"] == "directory" else f" ({one['Size']})"
        lines.append(mark + "  " * above.count("/") + escape(name + note) + "\n")
    return "".join(lines)


def row(entry: dict[str, Any]) -> dict[str, str]:
    mode, kind = entry["Mode"], entry["Type"]
    return {
        "Change": entry.get("Change") or "",
        "Mode": KINDS.get(kind, "-") + _permissions(mode),
        "Owner": f"{entry['UID']}:{entry['GID']}",
        "Size": size(entry["Size"], 3),
        "Bytes": str(entry["Size"]),
        "Layer": str(entry["Layer"]),
        "Modified": entry.get("Modified") or "",
        "Path": entry["Path"],
        "Target": entry.get("Target") or "",
        "Type": kind,
        "Links": str(entry.get("Links", 1)),
    }


def _permissions(mode: int) -> str:
    """As ``ls`` shows them."""
    text = ""
    for shift, special, lower, upper in ((6, 0o4000, "s", "S"), (3, 0o2000, "s", "S"), (0, 0o1000, "t", "T")):
        bits = mode >> shift & 7
        execute = "x" if bits & 1 else "-"
        if mode & special:
            execute = lower if bits & 1 else upper
        text += ("r" if bits & 4 else "-") + ("w" if bits & 2 else "-") + execute
    return text


COMMAND = Command(
    "[OPTIONS] IMAGE",
    "List the files of an image, or what one of its layers did",
    run,
    flags=(
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("layer", "int", "Show what this layer added (A), changed (C) and deleted (D); the base is 1"),
        Flag("tree", "bool", "Indent names under their directories"),
    ),
    minimum=1,
    maximum=1,
)
