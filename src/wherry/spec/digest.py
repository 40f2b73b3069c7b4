"""``sha256:<64 hex digits>`` as a checked value.  Standard library only.

A ``Digest`` names a blob, a layer's unpacked bytes (diff_id) or a stack of layers (chain_id); a string that has not passed the parser
is never joined into a path or a URL. msgspec encodes one with ``enc_hook=str`` and decodes one with
``dec_hook=lambda kind, value: kind(value)``; where a plain ``str`` is wanted, pass ``str(digest)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Self

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")


class Digest(str):
    """A string that is known to be ``sha256:`` and 64 lower-case hex digits."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check ``text``.  Raises ValueError: any other algorithm, length or alphabet."""
        if not _PATTERN.fullmatch(text):
            raise ValueError(f"invalid digest: {text[:100]!r}")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The 64 digits, without the algorithm."""
        return self[7:]


def is_digest(text: str) -> bool:
    """Whether ``text`` would make a Digest."""
    return _PATTERN.fullmatch(text) is not None


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """The digest of ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_ids(diff_ids: Iterable[str]) -> list[Digest]:
    """The name of each stack of layers, base first: of the first layer, of the first two, and so on.

    Source: OCI image-spec 1.1, config.md#layer-chainid.
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else Digest(diff_id))
    return chain


def chain_id(diff_ids: Iterable[str]) -> Digest:
    """The name of the whole stack of ``diff_ids``, base first.  Raises ValueError when there is none."""
    chain = chain_ids(diff_ids)
    if not chain:
        raise ValueError("an image without layers has no chain id")
    return chain[-1]
