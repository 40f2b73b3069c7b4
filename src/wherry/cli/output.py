"""What the commands print: tables, sizes, durations, and rows through ``--format``.

Cheap to import: the template engine is loaded only for a custom format.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Row = Mapping[str, str]

MIN_WIDTH = 10
PADDING = 3
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


class Listing:
    """How one kind of object is listed: Go's type name, the title of each field, the fields of the default table, and of ``raw``."""

    __slots__ = ("default", "go_type", "raw", "titles")

    def __init__(self, go_type: str, titles: Mapping[str, str], default: Sequence[str], raw: Sequence[tuple[str, str]] = ()) -> None:
        self.go_type = go_type
        self.titles = titles
        self.default = default
        self.raw = raw

    def text(
        self,
        rows: Sequence[Row],
        layout: str = "",
        *,
        fields: Sequence[str] = (),
        methods: Callable[[Row], Mapping[str, Callable[..., Any]]] | None = None,
    ) -> str:
        """All ``rows`` as ``layout`` says: empty or ``table`` (with ``fields`` for other columns than the default), ``table TEMPLATE``,
        ``json``, ``raw``, or a template.  Raises TemplateError with Docker's words.
        """
        layout = layout.strip(" ")
        if layout in ("", "table"):
            shown = fields or self.default
            return table([[self.titles[name] for name in shown]] + [[row[name] for name in shown] for row in rows])
        if layout == "json":
            from wherry.cli.template_values import to_json

            return "".join(to_json(dict(row), escape_html=True) + "\n" for row in rows)
        if layout == "raw" and self.raw:
            return "".join("".join(f"{label}: {escape(row[name])}\n" for label, name in self.raw) + "\n" for row in rows)
        return self._custom(rows, layout, methods)

    def _custom(self, rows: Sequence[Row], layout: str, methods: Callable[[Row], Mapping[str, Callable[..., Any]]] | None) -> str:
        from wherry.cli.template import Template, TemplateError
        from wherry.cli.template_values import Record

        tabular = layout.startswith("table ")
        body = layout.removeprefix("table ") if tabular else layout
        try:
            template = Template(body.strip(" ").replace("\\t", "\t").replace("\\n", "\n"))
            rows = printable(rows)
            made = (Record(row, self.go_type, methods(row) if methods else None) for row in rows)
            lines = [template.render(row) + "\n" for row in made]
        except TemplateError as error:
            raise TemplateError(f"template parsing error: {error}") from None
        if not tabular:
            return "".join(lines)
        header = template.render(Record(self.titles, self.go_type, {"Label": str}), header=True)
        return align(escape(header + "\n" + "".join(lines), keep="\t\n"))


def print_formatted(layout: str, value: object, view: Callable[[Any], Any] | None = None, name: str = "") -> None:
    """Print one value as ``--format`` asks: ``json``, or a template over it.  Raises TemplateError.

    ``view``: what a template sees, where that is another; ``name``: the template's in messages.
    """
    import sys

    if layout == "json":
        from wherry.client import jsontext

        sys.stdout.write(jsontext.dump(value) + "\n")
        return
    from wherry.cli.template import Template, TemplateError
    from wherry.cli.typed import typed

    try:
        template = Template(layout, name)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}", 64) from None
    try:
        sys.stdout.write(template.render((view or typed)(value)))
    finally:
        sys.stdout.write("\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell and three spaces, the last one as it comes: Docker's layout."""
    clean = [[escape(cell) for cell in row] for row in rows]
    last = len(clean[0]) - 1
    widths = [max(MIN_WIDTH, PADDING + max(len(row[column]) for row in clean)) for column in range(last)]
    return "".join("".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)]) + row[last] + "\n" for row in clean)


def align(text: str, *, minimum: int = MIN_WIDTH, padding: int = PADDING) -> str:
    """Tab-separated cells as Go's text/tabwriter lays them out: a column is a block of neighbouring lines that have the cell."""
    lines = [line.split("\t") for line in text.split("\n")]
    out: list[str] = []
    _align_block(lines, 0, len(lines), [], out, minimum, padding)
    return "\n".join(out)


def _align_block(lines: list[list[str]], start: int, end: int, widths: list[int], out: list[str], minimum: int, padding: int) -> None:
    column = len(widths)
    at = written = start
    while at < end:
        if column >= len(lines[at]) - 1:
            at += 1
            continue
        _write_lines(lines, written, at, widths, out)
        written = at
        width = minimum
        while at < end and column < len(lines[at]) - 1:
            width = max(width, len(lines[at][column]) + padding)
            at += 1
        _align_block(lines, written, at, [*widths, width], out, minimum, padding)
        written = at
    _write_lines(lines, written, end, widths, out)


def _write_lines(lines: list[list[str]], start: int, end: int, widths: list[int], out: list[str]) -> None:
    for line in lines[start:end]:
        out.append("".join(cell.ljust(widths[at]) if at < len(widths) else cell for at, cell in enumerate(line)))


def escape(text: str, keep: str = "") -> str:
    """``text`` with control characters (C0, DEL, C1) shown as ``\\x1b``: names and labels must not drive a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or not _is_control(char) else f"\\x{ord(char):02x}" for char in text)


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f"


def printable(rows: Sequence[Row]) -> Sequence[Row]:
    """Values as they are for a program, without control characters for a terminal: a template shows them bare."""
    import sys

    return [{name: escape(value) for name, value in row.items()} for row in rows] if sys.stdout.isatty() else rows


def size(count: float, precision: int = 4) -> str:
    """Bytes in decimal units: ``1.982MB``."""
    return _scaled(count, 1000.0, _DECIMAL, precision)


def binary_size(count: float, precision: int = 4) -> str:
    """Bytes in binary units: ``512KiB``."""
    return _scaled(count, 1024.0, _BINARY, precision)


def _scaled(count: float, base: float, units: Sequence[str], precision: int) -> str:
    at = 0
    while count >= base and at < len(units) - 1:
        count /= base
        at += 1
    return f"{count:.{precision}g}{units[at]}"


def duration(seconds: float) -> str:
    """A span of time as a person says it: ``About a minute``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, name in ((24 * 14, 24, "days"), (24 * 60, 168, "weeks"), (24 * 730, 720, "months")):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(then: float, now: float | None = None) -> str:
    """How long ago ``then`` (Unix seconds) was: ``3 minutes ago``."""
    if now is None:
        import time

        now = time.time()
    return duration(now - then) + " ago"


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time; 0.0 when it is none."""
    days_before = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
    try:
        year, month, day = int(text[0:4]), int(text[5:7]), int(text[8:10])
        clock = int(text[11:13]) * 3600 + int(text[14:16]) * 60 + int(text[17:19])
        rest = text[19:]
        fraction = 0.0
        if rest.startswith("."):
            digits = rest[1:].rstrip("Zz").partition("+")[0].partition("-")[0]
            fraction = int(digits) / 10 ** len(digits)
            rest = rest[1 + len(digits) :]
        offset = 0 if rest in ("Z", "z", "") else int(rest[1:3]) * 3600 + int(rest[4:6]) * 60
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        past = year - 1
        days = past * 365 + past // 4 - past // 100 + past // 400 - 719162 + days_before[month - 1] + (leap and month > 2) + day - 1
    except (ValueError, IndexError):
        return 0.0
    return days * 86400 + clock + fraction + (offset if rest.startswith("-") else -offset)


def local_time(seconds: float) -> str:
    """Go's default text of a local time: ``2026-11-21 00:57:13 +0000 UTC``."""
    import time

    moment = time.localtime(seconds)
    return f"{moment.tm_year:04}" + time.strftime("-%m-%d %H:%M:%S %z %Z", moment)


def go_time(text: str) -> str:
    """``2026-11-21T03:15:45.36Z`` as Go prints a time."""
    return text.replace("T", " ").replace("Z", " +0000 UTC") if text.endswith("Z") else text.replace("T", " ")


def rfc3339_local(seconds: float) -> str:
    """``2026-11-21T00:57:13Z`` in the local zone."""
    import time

    zone = time.strftime("%z", time.localtime(seconds))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def shorten(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, the last an ellipsis when something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
