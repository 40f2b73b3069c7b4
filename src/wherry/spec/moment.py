"""Durations as Go writes them, and times as ``--since``, ``--until`` and the filter ``until`` take them.

Source: time.ParseDuration; moby api/types/time GetTimestamp.
"""

from __future__ import annotations

import time

from wherry.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DURATION_UNITS = (("ns", 1), ("us", 1000), ("µs", 1000), ("ms", 1_000_000), ("s", 10**9), ("m", 60 * 10**9), ("h", 3600 * 10**9))


def parse_duration(text: str) -> int:
    """A Go duration (``1h30m``, ``-1.5s``, ``0``) in nanoseconds."""
    rest = text.lstrip("+-") if text[:1] in ("+", "-") and len(text) - len(text.lstrip("+-")) == 1 else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0
    while rest:
        digits = 0
        while digits < len(rest) and rest[digits] in "0123456789.":
            digits += 1
        number, rest = rest[:digits], rest[digits:]
        letters = 0
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        unit, rest = rest[:letters], rest[letters:]
        whole, point, fraction = number.partition(".")
        if not (whole or fraction) or "." in fraction:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        factor = dict(DURATION_UNITS).get(unit)
        if factor is None:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += int(whole or "0") * factor + (int(fraction or "0") * factor // 10 ** len(fraction) if point else 0)
    return -total if text[0] == "-" else total


def go_duration(ns: int) -> str:
    """Nanoseconds as Go prints them: ``0s``, ``1.5s``, ``1m30s``, ``-2h0m0s``."""
    if ns < 0:
        return "-" + go_duration(-ns)
    if ns < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if ns >= size:
                return _decimal(ns, size) + unit
        return "0s"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, 10**9) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(rest + unit)[1:].rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def until_ns(filters: Mapping[str, Sequence[str]], key: str = "until") -> int | None:
    """The moment a filter names, since the epoch; None without the filter.  Raises InvalidRequest."""
    values = filters.get(key) or ()
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest("more than one until filter specified")
    try:
        seconds, _, fraction = to_unix(values[0]).partition(".")
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9])


def to_unix(text: str, now: float | None = None) -> str:
    """``text``: a Go duration (so long ago), RFC 3339 in full or in part, or Unix seconds; as the API takes it: Unix seconds.

    Raises ValueError in Docker's words.
    """
    try:
        if text == "0":
            return text  # the epoch, not now
        ago = parse_duration(text)
    except ValueError:
        pass
    else:
        moment = (time.time_ns() if now is None else int(now * 10**9)) - ago
        return f"{moment // 10**9}.{moment % 10**9:09d}"
    if "-" in text:
        return _date(text)
    seconds, dot, fraction = text.partition(".")
    if not seconds.isdecimal() or (dot and not fraction.isdecimal()):
        raise ValueError(f'failed to parse value as time or duration: "{text}"')
    return text


def _date(text: str) -> str:
    import datetime

    head, _, fraction = text.partition(".")
    digits = ""
    for character in fraction:
        if not character.isdecimal():
            break
        digits += character
    clock, zone = _split_zone((head + fraction[len(digits) :]).partition("T")[2])
    try:
        parsed = datetime.datetime.fromisoformat(f"{text[:10]}T{_padded(clock)}{zone}")
    except ValueError as error:
        part = str(error).partition(" ")[0]
        if part in ("month", "day", "hour", "minute", "second"):
            raise ValueError(f'parsing time "{text}": {part} out of range') from None
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{int(parsed.timestamp())}.{(digits + '0' * 9)[:9]}"


def _split_zone(clock: str) -> tuple[str, str]:
    for mark in "Z+-":
        head, found, tail = clock.partition(mark)
        if found:
            return head, "+00:00" if mark == "Z" else mark + tail
    return clock, ""


def _padded(clock: str) -> str:
    return clock + "00:00:00"[len(clock) :]
