"""Mirrors of registries: ``URL`` for Docker Hub, as Docker has it, or ``REGISTRY=URL`` for any other."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from wherry.spec.reference import DEFAULT_DOMAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """``host``: with its port. ``is_plain``: it is reached without TLS, since its address says so."""

    of: str
    host: str
    is_plain: bool = False


def parse_mirror(text: str) -> Mirror:
    """Raises ValueError in Docker's words."""
    of, equals, url = text.partition("=")
    if not equals or "/" in of:
        of, url = DEFAULT_DOMAIN, text
    try:
        parts = urlsplit(url)
        host, _ = parts.netloc, parts.port
    except ValueError as error:
        raise ValueError(f'invalid mirror: "{url}" is not a valid URI: {error}') from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"invalid mirror: unsupported scheme \"{parts.scheme}\" in \"{url}\": must use either 'https://' or 'http://'")
    if parts.username is not None:
        raise ValueError(f'invalid mirror: username/password not allowed in the URI of "{parts.hostname}"')
    if parts.path not in ("", "/") or parts.query or parts.fragment or not host:
        raise ValueError(f'invalid mirror: path, query, or fragment at end of the URI "{url}"')
    return Mirror(of=of, host=host, is_plain=parts.scheme == "http")
