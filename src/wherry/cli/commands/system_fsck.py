"""``wherry system fsck``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    layout = invocation.text("format")
    if layout not in ("", "text", "json"):
        raise Failure(f"wherry: unknown format {layout!r}: use text or json")
    engine = invocation.program.engine
    query = {"quick": invocation.flag("quick"), "repair": invocation.flag("repair")}
    response = engine.stream("POST", "/wherry/v1/fsck", query)
    rest = ""
    wrong = left = 0
    for piece in response:
        found, rest = jsontext.parse_many(rest + piece.decode("utf-8", "replace"))
        for finding in found:
            wrong += 1
            left += not finding["Mended"]
            sys.stdout.write((jsontext.dump(finding) if layout == "json" else line(finding, repair=invocation.flag("repair"))) + "\n")
        sys.stdout.flush()
    engine.done(response)
    if layout != "json":
        print(summary(wrong, left))
    return 1 if left else 0


def line(finding: dict[str, Any], *, repair: bool) -> str:
    """``SUBJECT: FACT: what was done, or what a repair or the user can do``."""
    remedy = finding["Remedy"]
    if finding["Error"]:
        remedy = f"could not be mended ({remedy}): {finding['Error']}"
    elif finding["Mended"]:
        remedy = f"mended: {remedy}"
    elif finding["Mendable"] and not repair:
        remedy = f"--repair: {remedy}"
    return f"{finding['Subject']}: {finding['Fact']}: {remedy}"


def summary(wrong: int, left: int) -> str:
    if not wrong:
        return "Nothing is wrong."
    return f"{wrong} thing{'s' if wrong > 1 else ''} wrong, {wrong - left} mended."


COMMAND = Command(
    "[OPTIONS]",
    "Check everything that is stored, and mend it",
    run,
    flags=(
        Flag("format", "string", "text or json (one object a line)"),
        Flag("quick", "bool", "Do not read files whole: no digests"),
        Flag("repair", "bool", "Mend what can be mended; what is damaged is set aside, not destroyed"),
    ),
    maximum=0,
)
