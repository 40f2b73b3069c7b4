"""JSON that strangers wrote, read into little memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_VALUES = 100_000  # more than any honest document has; 4 MiB of "[],[],..." would become a hundred megabytes of lists


def loads(raw: bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """As ``json.loads`` with ``object_pairs_hook``.  Raises ValueError, also for what is too deep or has too many values."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _VALUES:
        raise ValueError("too many values in one document")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=hook)
    except RecursionError as error:
        raise ValueError(str(error)) from error
