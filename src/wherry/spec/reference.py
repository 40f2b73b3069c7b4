"""Image names: parse, normalise, print.

A reference is ``[domain/]path[:tag][@digest]``. What a person types ("node") and what is stored ("docker.io/library/node:latest") are
two spellings of one value: ``parse`` reads either, ``str`` prints the stored one and ``familiar`` the short one.
Source: the distribution project's reference grammar, with Docker's error texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_HOST})/({_COMPONENT}(?:/{_COMPONENT})*)(?::({_TAG}))?(?:@({_DIGEST}))?")
_TAG_ALONE = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidReference(ValueError):
    """A text that is not an image name; the message is Docker's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image name, normalised.  ``digest`` is ``sha256:<64 hex>``; ``tag`` and ``digest`` may both be absent or both present."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The repository as stored: ``docker.io/library/node``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as shown: ``node``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """The whole reference as shown: ``node:20``."""
        return self.familiar_name + self._suffix

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def is_name_only(self) -> bool:
        return self.tag is None and self.digest is None

    def with_default_tag(self) -> Reference:
        """Itself, or with ``:latest`` when it has neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """The same repository under ``tag``, without a digest.  Raises InvalidReference."""
        if not _TAG_ALONE.fullmatch(tag):
            raise InvalidReference("invalid tag format")
        return Reference(domain=self.domain, path=self.path, tag=tag)

    def with_digest(self, digest: str) -> Reference:
        """The same repository at ``digest``, without a tag.  Raises InvalidReference."""
        return Reference(domain=self.domain, path=self.path, digest=_checked_digest(digest))


def parse(text: str) -> Reference:
    """Read a name as a person writes it or as it is stored.  Raises InvalidReference."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidReference(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidReference(f"invalid reference format: repository name ({remote.partition('@')[0]}) must be lowercase")
    found = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if found is None:
        raise InvalidReference("invalid reference format")
    path, tag, digest = found[2], found[3], found[4]
    if len(path) > _MAX_PATH:
        raise InvalidReference("repository name must not be more than 255 characters")
    return Reference(domain=found[1], path=path, tag=tag, digest=None if digest is None else _checked_digest(digest))


def parse_tag(text: str) -> Reference:
    """Read a name that is to be given to an image: ``latest`` is filled in, a digest refused.  Raises InvalidReference."""
    reference = parse(text)
    if reference.digest is not None:
        raise InvalidReference("refusing to create a tag with a digest reference")
    if reference.domain == DEFAULT_DOMAIN and reference.path == _OFFICIAL + "sha256":
        raise InvalidReference("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_default_tag()


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + text
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN:
        return DEFAULT_DOMAIN, rest if "/" in rest else _OFFICIAL + rest
    if first == "localhost" or "." in first or ":" in first or first.lower() != first:
        return first, rest
    return DEFAULT_DOMAIN, text


def _checked_digest(text: str) -> str:
    algorithm, _, encoded = text.partition(":")
    if algorithm != "sha256":
        raise InvalidReference("unsupported digest algorithm")
    if len(encoded) != 64:
        raise InvalidReference("invalid checksum digest length")
    if not _SHA256.fullmatch(encoded):
        raise InvalidReference("invalid checksum digest format")
    return text
