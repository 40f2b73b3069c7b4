"""The filters of ``docker search``.  Source: Engine API 1.51 ImageSearch; messages of dockerd 28."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wherry.errors import InvalidRequest

Found = Mapping[str, object]
_FILTERS = frozenset({"is-automated", "is-official", "stars"})
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


def condition(filters: Mapping[str, Sequence[str]]) -> Callable[[Found], bool]:
    """Whether a result is wanted.  Raises InvalidRequest, before anybody is asked."""
    for name in filters:
        if name not in _FILTERS:
            raise InvalidRequest(f"invalid filter '{name}'")
    stars = max((_number(text) for text in filters.get("stars", ())), default=0)
    automated, official = (_boolean(filters, name) for name in ("is-automated", "is-official"))

    def is_wanted(found: Found) -> bool:
        count = found.get("star_count")
        return (
            (not stars or (isinstance(count, int) and count >= stars))
            and (automated is None or bool(found.get("is_automated")) is automated)
            and (official is None or bool(found.get("is_official")) is official)
        )

    return is_wanted


def _number(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise InvalidRequest(f"invalid filter 'stars={text}': strconv.Atoi: parsing \"{text}\": invalid syntax") from None


def _boolean(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    values = filters.get(name, ())
    known = {_BOOLEANS.get(value) for value in values}
    if None in known or len(known) > 1:
        raise InvalidRequest(f"invalid filter '{name}=[{' '.join(values)}]'")
    return next(iter(known), None)
