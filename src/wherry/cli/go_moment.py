"""A time as Go has it, for templates: ``{{.Created.Format "2006-01-02"}}``.  Source: Go time, format.go."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from wherry.cli.output import go_time
from wherry.cli.template_values import Named

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_PARTS = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|Z07:00|-07:00|-0700|_2|01|02|03|04|05|06|15|PM|pm|1|2|3|4|5|[.,](?:0+|9+)(?![0-9])"  # longest first
)
_PLAIN = {
    "January": "%B", "Jan": "%b", "Monday": "%A", "Mon": "%a", "2006": "%Y", "01": "%m", "02": "%d", "03": "%I", "04": "%M", "05": "%S",
    "06": "%y", "15": "%H", "PM": "%p", "-0700": "%z",
}  # fmt: skip


def moment(text: str) -> str:
    """The time that ``text`` tells, in the zone it names; another text as it is."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return text
    try:
        when = datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00"))
    except ValueError:
        return text
    fraction = int((found[2] or "").ljust(9, "0"))
    seconds = round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    methods: Mapping[str, Callable[..., Any]] = {
        "String": lambda: go_time(text),
        "Format": lambda layout: _formatted(when, fraction, layout),
        "IsZero": lambda: text == "0001-01-01T00:00:00Z",
        "Unix": lambda: seconds,
        "UnixMilli": lambda: seconds * 10**3 + fraction // 10**6,
        "UnixNano": lambda: seconds * 10**9 + fraction,
        "UTC": lambda: moment(f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}{'.' + found[2] if found[2] else ''}Z"),
        "Month": lambda: f"{when:%B}",
        "Weekday": lambda: f"{when:%A}",
        "Year": lambda: when.year,
        "Day": lambda: when.day,
        "YearDay": lambda: when.timetuple().tm_yday,
        "Hour": lambda: when.hour,
        "Minute": lambda: when.minute,
        "Second": lambda: when.second,
        "Nanosecond": lambda: fraction,
    }
    return Named(text, "time.Time", methods, go_time(text))


def _formatted(when: datetime, fraction: int, layout: str) -> str:
    return _PARTS.sub(lambda part: _part(when, fraction, part[0]), layout)


def _part(when: datetime, fraction: int, part: str) -> str:
    if part[0] in ".,":
        digits = f"{fraction:09}"[: len(part) - 1]
        shown = digits if part[1] == "0" else digits.rstrip("0")
        return part[0] + shown if shown else ""
    if part in ("Z07:00", "-07:00"):
        zone = when.strftime("%z")
        return "Z" if part[0] == "Z" and not when.utcoffset() else f"{zone[:3]}:{zone[3:]}"
    if part == "MST":
        return "UTC" if not when.utcoffset() else when.strftime("%z")
    if part == "pm":
        return when.strftime("%p").lower()
    if part == "_2":
        return f"{when.day:2}"
    short = {"1": when.month, "2": when.day, "3": (when.hour + 11) % 12 + 1, "4": when.minute, "5": when.second}
    return str(short[part]) if part in short else f"{when.year:04}" if part == "2006" else when.strftime(_PLAIN[part])
