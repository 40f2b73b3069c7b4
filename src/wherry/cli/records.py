"""Streams of JSON lines, in handfuls: a long list is shown while it comes, and never held as a whole."""

from __future__ import annotations

from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


def batches(pieces: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """The records as they come; at least one batch, which may be empty.  Raises ValueError for a stream that ends inside a record."""
    rest = b""
    found = False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        records = [jsontext.parse(line) for line in lines if line]
        if records:
            found = True
            yield records
    if rest:
        raise ValueError("the stream ended inside a record")
    if not found:
        yield []
