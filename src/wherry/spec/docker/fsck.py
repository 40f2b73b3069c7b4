"""What ``POST /wherry/v1/fsck`` answers, one object a line."""

from __future__ import annotations

import msgspec


class Found(msgspec.Struct, kw_only=True, rename="pascal"):
    """``remedy``: what a repair does (``mendable``), else what the user can do. ``mended``: it was done; ``error``: it failed."""

    subject: str
    fact: str
    remedy: str
    mendable: bool = False
    mended: bool = False
    error: str = ""
