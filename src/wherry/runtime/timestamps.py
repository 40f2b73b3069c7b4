"""Times as Docker's log files have them."""

from __future__ import annotations

import time


def rfc3339(at_ns: int) -> bytes:
    """RFC3339 in UTC with up to nine digits, zeros at the end left out."""
    seconds, fraction = divmod(at_ns, 1_000_000_000)
    head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09}".rstrip("0")
    return f"{head}.{digits}Z".encode() if digits else f"{head}Z".encode()
