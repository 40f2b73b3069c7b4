"""What ``GET /wherry/v1/disk`` answers: every byte of the data root, by what it is for."""

from __future__ import annotations

import msgspec


class DiskPart(msgspec.Struct, kw_only=True, rename="pascal"):
    """``size`` as du counts: blocks on the disk."""

    name: str
    size: int
    objects: int = 0


class DiskParts(msgspec.Struct, kw_only=True, rename="pascal"):
    """The parts' sizes add up to ``total``, which is what du says of ``root``."""

    root: str
    total: int
    parts: list[DiskPart]
