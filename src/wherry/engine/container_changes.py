"""What a container changed, told as it is found: there may be a million paths."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from wherry.spec.docker.body import encode
from wherry.spec.docker.container import FilesystemChange
from wherry.store.snapshot import Change
from wherry.tree.tar import Sink

_TOGETHER = 1000  # records that are written at once


def write(changes: Iterable[Change], hidden: Collection[str], out: Sink) -> None:
    """A JSON list of `FilesystemChange`, null for none.  ``hidden``: paths that something is mounted on.  Raises OSError."""
    lead = b"["
    records: list[bytes] = []
    for change in changes:
        if change.path in hidden:
            continue
        records.append(encode(FilesystemChange(path=change.path, kind=change.kind)))
        if len(records) >= _TOGETHER:
            out.write(lead + b",".join(records))
            lead, records = b",", []
    if records:
        out.write(lead + b",".join(records))
        lead = b","
    out.write(b"null\n" if lead == b"[" else b"]\n")
