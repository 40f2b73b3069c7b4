"""Which entries of the build cache a prune means.

Source: moby builder-next toBuildkitPruneInfo: ``id`` is a pattern, the other fields are equal; BuildKit calculateKeepBytes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial

from wherry.build import cache
from wherry.errors import InvalidRequest
from wherry.spec.docker.request import CachePrune, Filters
from wherry.spec.moment import until_ns

_TIMES = ("until", "unused-for")
_FIELDS: dict[str, Callable[[str, cache.Entry, str], bool]] = {
    "id": lambda key, _, value: re.search(value, key) is not None,
    "parent": lambda _, entry, value: entry.parent == value,
    "type": lambda _, entry, value: cache.shown_kind(entry) == value,
    "description": lambda _, entry, value: entry.description == value,
    **dict.fromkeys(("inuse", "shared", "private"), lambda key, entry, value: not value),  # BuildKit tells no value of these
}


def cache_choice(request: CachePrune, filters: Filters, data_root: str) -> cache.Choice | None:
    """None: nothing is meant.  Raises InvalidRequest."""
    if "label" in filters or "label!" in filters:  # `system prune` sends its filters to all; steps have no labels
        return None
    fits = _predicate(filters)
    unused_for_s = _unused_for_s(filters)
    keeps = partial(_kept_bytes, request, data_root=data_root)
    return cache.Choice(everything=request.all, unused_for_s=unused_for_s, keeps=keeps, fits=fits)


def _unused_for_s(filters: Filters) -> float:
    key = next((key for key in _TIMES if filters.get(key)), "")
    try:
        until = until_ns(filters, key)
    except InvalidRequest as error:
        wanted = f"\"{key}\" filter expects a duration (e.g., '24h') or a timestamp"
        raise InvalidRequest(f"failed to prune build cache: {wanted}: {error}") from error
    return 0.0 if until is None else max(0.0, time.time() - until / 10**9)


def _predicate(filters: Filters) -> Callable[[str, cache.Entry], bool]:
    for key, values in filters.items():
        if key not in (*_TIMES, *_FIELDS):
            raise InvalidRequest(f"failed to prune build cache: invalid filter '{key}'")
        if len(values) > 1:
            raise InvalidRequest("failed to prune build cache: filters expect only one value")
    wanted = [(_FIELDS[key], values[0]) for key, values in filters.items() if key in _FIELDS and values]
    try:
        re.compile("".join(filters.get("id", ())))
    except re.error as error:
        raise InvalidRequest(f"failed to prune build cache: error parsing regexp: {error}") from error
    return lambda ident, entry: all(fits(ident, entry, value) for fits, value in wanted)


def _kept_bytes(request: CachePrune, total: int, *, data_root: str) -> int:
    """How much of ``total`` may stay: 0 where nothing was said of it."""
    if not (request.max_used_space or request.min_free_space):
        return request.reserved_space
    disk = os.statvfs(data_root)
    missing = max(0, request.min_free_space - disk.f_bfree * disk.f_frsize)
    return max(min(request.max_used_space or total, total - missing), request.reserved_space)
