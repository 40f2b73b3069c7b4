"""The rows of all snapshots, decoded once and found by name, directory, parent or tar: thousands of them cost an operation nothing."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from wherry.store.records import Records
from wherry.store.snapshot import Row

KIND = "layer"


class Rows:
    """What the records hold of kind ``layer``, whoever writes it.  Usable from any thread."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._decode = msgspec.json.Decoder(Row).decode
        self._rows: dict[str, Row] | None = None  # None: to be read
        self._names: dict[str, str] = {}
        self._children: defaultdict[str, set[str]] = defaultdict(set)
        self._tars: defaultdict[str, set[str]] = defaultdict(set)
        records.watch(KIND, self._changed)

    def get(self, name: str) -> Row | None:
        with self._records.reading():
            return self._read().get(name)

    def all(self) -> list[tuple[str, Row]]:
        """In order of name."""
        with self._records.reading():
            return sorted(self._read().items())

    def named(self, directory: str) -> str | None:
        with self._records.reading():
            self._read()
            return self._names.get(directory)

    def child(self, name: str) -> str | None:
        """One of those that stand on ``name``."""
        with self._records.reading():
            self._read()
            return next(iter(self._children.get(name, ())), None)

    def with_tar(self, diff_id: str) -> list[Row]:
        with self._records.reading():
            rows = self._read()
            return [rows[name] for name in self._tars.get(diff_id, ())]

    def _read(self) -> dict[str, Row]:
        if self._rows is None:
            self._rows = {}
            for index in (self._names, self._children, self._tars):
                index.clear()
            for name, body in self._records.items(KIND):
                self._add(self._rows, name, self._decode(body))
        return self._rows

    def _changed(self, name: str | None, body: bytes | None) -> None:
        """Called by the records; ``name`` None: writes were undone."""
        if name is None:
            self._rows = None
        if self._rows is None or name is None:
            return
        name = str(name)  # not a Digest
        if (former := self._rows.pop(name, None)) is not None:
            if self._names.get(former.directory) == name:
                del self._names[former.directory]
            self._children[former.parent or ""].discard(name)
            self._tars[former.tar].discard(name)
        if body is not None:
            self._add(self._rows, name, self._decode(body))

    def _add(self, rows: dict[str, Row], name: str, row: Row) -> None:
        rows[name] = row
        self._names[row.directory] = name
        if row.parent:
            self._children[row.parent].add(name)
        if row.tar:
            self._tars[row.tar].add(name)
