"""Times on the command line (``--since``, ``--until``) as the Unix time the API takes."""

from __future__ import annotations

import time

from wherry.cli.flags import parse_duration


def to_unix(text: str, now: float | None = None) -> str:
    """``text``: a Go duration (so long ago), RFC 3339 in full or in part, or Unix seconds.  Raises ValueError in Docker's words."""
    try:
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
    except ValueError:
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
