"""Times as image configs write them: RFC 3339 with up to nine decimals."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))")
ZERO = "0001-01-01T00:00:00Z"


def now() -> str:
    """The present, in nanoseconds: ``2026-11-21T03:32:10.53360267Z``, trailing zeros left out as Go does."""
    return from_ns(time.time_ns())


def from_ns(since_epoch_ns: int) -> str:
    seconds, rest = divmod(since_epoch_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def to_ns(text: str | None) -> int:
    """Nanoseconds since the epoch; 0 for nothing and for what is no time."""
    found = _RFC3339.fullmatch(text or "")
    if found is None:
        return 0
    try:
        year, month, day, hour, minute, second = (int(found[index]) for index in range(1, 7))
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return 0
    seconds = int(moment.timestamp())
    if found[9]:
        offset = int(found[10]) * 3600 + int(found[11]) * 60
        seconds += -offset if found[9] == "+" else offset
    return seconds * 1_000_000_000 + int((found[7] or "").ljust(9, "0"))
