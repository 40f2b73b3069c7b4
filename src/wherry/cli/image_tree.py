"""``images --tree``: a line for every name, sizes and use beside the last one.  Source: Docker CLI 28's output.

An image here holds one platform, so no branch has leaves. Docker colours this also in a pipe; here only a terminal gets colours.
"""

from __future__ import annotations

import os
import sys

from wherry.cli.output import escape, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

WARNING = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."
COLUMNS = (("ID", 12, False), ("DISK USAGE", 10, True), ("CONTENT SIZE", 12, True), ("EXTRA", 5, False))  # title, width, to the right
GAP = "   "
NO_TERMINAL = 80
NARROWEST = 12  # of the names' column; further columns are left out instead


def show(images: Sequence[dict[str, Any]], *, every: bool) -> None:
    """Print ``images`` as ``GET /images/json`` gave them; those without a name only if ``every``."""
    terminal = sys.stdout.isatty()
    width = os.get_terminal_size(1).columns or NO_TERMINAL if terminal else NO_TERMINAL
    shown = sorted((image for image in images if every or image.get("RepoTags")), key=lambda image: -image["Created"])
    sys.stdout.write("".join(line + "\n" for line in lines(shown, width, colored=terminal)))


def lines(images: Sequence[dict[str, Any]], width: int, *, colored: bool) -> Iterator[str]:
    """The whole text, fitted to ``width``: names give way first, then the last columns go."""
    columns, first = list(COLUMNS), width - _taken(COLUMNS)
    while columns and first < NARROWEST:
        first += _taken([columns.pop()])
    first = min(first, max([len("IMAGE"), *(len(escape(name)) for image in images for name in _names(image))]))
    yield _paint(WARNING, "93", colored)
    note = "i Info →   U  In Use" if colored else "Info ->  U In Use "
    yield note.rjust(width - (2 if colored else 0))
    yield ""
    titles = [_paint("IMAGE", "1", colored) + " " * (first - len("IMAGE"))]
    titles += [_paint(title, "1", colored) + " " * (wide - len(title)) for title, wide, _ in columns]
    yield GAP.join(titles)
    for image in images:
        *others, last = _names(image)
        for name in others:
            yield _paint(escape(name), "1;34", colored)
        values = (image["Id"].removeprefix("sha256:")[:12], size(image["Size"], 3), "0B", "U" if image.get("Containers", 0) > 0 else "")
        if len(escape(last)) > first:
            yield _paint(escape(last), "1;34", colored)
            last = ""
        cells = [_paint(escape(last), "1;34", colored) + " " * (first - len(escape(last)))]
        cells += [value.rjust(wide) if right else value.ljust(wide) for value, (_, wide, right) in zip(values, columns, strict=False)]
        yield GAP.join(cells)


def _names(image: dict[str, Any]) -> list[str]:
    """The longest first, as Docker has it."""
    return sorted(image.get("RepoTags") or ["<untagged>"], key=len, reverse=True)


def _taken(columns: Sequence[tuple[str, int, bool]]) -> int:
    return sum(len(GAP) + wide for _, wide, _ in columns)


def _paint(text: str, code: str, colored: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colored and text else text
