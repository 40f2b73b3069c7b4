"""Names, tags and digests as a registry takes them from strangers: what has passed here may become part of a path.

Source: OCI distribution-spec 1.1, "Pulling manifests"; OCI image-spec 1.1, descriptor.md#digests.
"""

from __future__ import annotations

import hashlib
import re
from typing import Self

NAME_LIMIT = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def is_name(text: str) -> bool:
    """Whether ``text`` can be a repository's name."""
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


class AnyDigest(str):
    """A string that is known to be ``sha256:`` or ``sha512:`` and the right number of lower-case hex digits."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check ``text``.  Raises ValueError."""
        if not _DIGEST.fullmatch(text):
            raise ValueError(f"invalid digest: {text[:100]!r}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self[:6]

    @property
    def hex(self) -> str:
        return self[7:]

    @property
    def word(self) -> str:
        """``sha256-<hex>``: as a part of a key."""
        return self.replace(":", "-")

    @classmethod
    def of_word(cls, word: str) -> Self:
        """What ``word`` was made of.  Raises ValueError."""
        return cls(word.replace("-", ":", 1))
