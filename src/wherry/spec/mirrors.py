"""What the daemon is told of registries: mirrors (``URL`` for Docker Hub, as Docker has it, or ``REGISTRY=URL`` for any other), which may
be reached without TLS, and whose tokens come from where.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from wherry.spec.reference import DEFAULT_DOMAIN

_HOST_PORT = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:(?P<port>[0-9]{1,9}))?")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """``url``: without a slash at its end."""

    of: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenServer:
    """``host`` may be told the credentials for ``registry``; both with their ports, where those are not the scheme's."""

    registry: str
    host: str


def parse_token_server(text: str) -> TokenServer:
    """``REGISTRY=HOST[:PORT]``.  Raises ValueError."""
    registry, _, host = text.partition("=")
    if not _HOST_PORT.fullmatch(registry) or not _HOST_PORT.fullmatch(host):
        raise ValueError(f"invalid token server {text}: must be REGISTRY=HOST[:PORT]")
    return TokenServer(registry=registry.removesuffix(":443"), host=host.removesuffix(":443"))


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
    if parts.query or parts.fragment or not host:
        raise ValueError(f'invalid mirror: query or fragment at end of the URI "{url}"')
    return Mirror(of=of, url=f"{parts.scheme}://{host}{parts.path}".rstrip("/"))


def parse_insecure(text: str) -> str:
    """``HOST[:PORT]`` or a network, without the scheme that people write before it.  Raises ValueError in Docker's words."""
    scheme, separator, host = text.partition("://")
    if not separator:
        host = text
    elif scheme.lower() not in ("http", "https"):
        raise ValueError(f"insecure registry {text} should not contain '://'")
    found = _HOST_PORT.fullmatch(host)
    if found is None:
        with suppress(ValueError):
            ipaddress.ip_network(host, strict=False)  # an address of version 6 too
            return host
        raise ValueError(f'insecure registry {text} is not valid: invalid host "{host}"')
    if found["port"] is not None and not 0 < int(found["port"]) <= _LAST_PORT:
        raise ValueError(f'insecure registry {text} is not valid: invalid port "{found["port"]}"')
    return host
