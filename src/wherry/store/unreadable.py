"""Rows that their room cannot read: an earlier one takes their place, or they are put out of everybody's way.  Nothing is thrown away.

Only two faults at once lead here: the journal mends every row that was damaged on the disk alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from wherry.store.soundness import keep

if TYPE_CHECKING:
    from wherry.store.journal import Told
    from wherry.store.records import Records

Checks = Mapping[str, Callable[[str, bytes], object]]
"""By kind, given ident and body: raises ValueError or msgspec.DecodeError for a row that its room cannot read."""
_KIND = "unreadable"  # the ident: the row's kind, a blank, its ident
ANY = "*"  # in place of a kind: rows of which nothing is known may be lost


def set_aside(records: Records, told: Told | None, checks: Checks, data_root: str) -> Iterator[str]:
    """At start, before any room reads: what was done, in words."""
    for kind, check in checks.items():
        for ident, body in records.items(kind):
            fault = _fault(check, ident, body)
            if not fault:
                continue
            text = f"record {kind} {ident} can't be read ({fault}): it is kept as "
            text += os.path.relpath(keep(data_root, f"record-{kind}-{ident[:64].replace('/', '_')}", body), data_root)
            earlier = (change.value for change in told.history("item", kind, ident)) if told is not None else ()
            copy = next((value for value in earlier if value is not None and not _fault(check, ident, value)), None)
            with records.transaction():
                if copy is not None:
                    records.put(kind, ident, copy)
                else:
                    records.put(_KIND, f"{kind} {ident}", body)
                    records.delete(kind, ident)
            yield f"{text}, and an earlier one is taken" if copy is not None else f"{text}: see `wherry system fsck`"


def doubt(records: Records) -> None:
    """The records come from a copy that may have ended early: what they do not tell of must not be swept."""
    records.put(_KIND, f"{ANY} ", b"")


def is_doubtful(records: Records, kind: str = ANY) -> bool:
    """Whether something may belong to a row of this kind that is not there.  ``ANY``: to one of which nothing is known."""
    return any(other in (kind, ANY) for other, _ in unreadable(records))


def unreadable(records: Records) -> list[tuple[str, str]]:
    """The (kind, ident) of what is out of the way: as if it were not there, but what belongs to it must not be swept."""
    return [(kind, ident) for kind, _, ident in (name.partition(" ") for name, _ in records.items(_KIND))]


def idents(records: Records, kind: str) -> set[str]:
    return {ident for other, ident in unreadable(records) if other == kind}


def forget(records: Records, kind: str, ident: str) -> None:
    """It is here again, or given up."""
    records.delete(_KIND, f"{kind} {ident}")


def _fault(check: Callable[[str, bytes], object], ident: str, body: bytes) -> str:
    try:
        check(ident, body)
    except (ValueError, msgspec.DecodeError) as error:
        return str(error)
    return ""
