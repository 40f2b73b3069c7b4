"""Who a client is at a registry, and where that may be told.

Credentials never travel without the origin they are for: the transport attaches them by comparing origins, and nothing else decides.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

HUB_HOST = "registry-1.docker.io"
_REALMS = frozenset({(HUB_HOST, "auth.docker.io")})  # registries whose tokens are issued by a host of another name
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what must be equal for credentials to be sent."""

    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client sent in ``X-Registry-Auth`` or to ``POST /auth``; secrets are left out of its repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of a Basic ``Authorization`` header, or nothing without a name and password."""
        if not self.username or not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def from_json(fields: object) -> Credentials:
    """Read Docker's AuthConfig object.  Raises ValueError."""
    if not isinstance(fields, dict):
        raise ValueError("auth config is not an object")
    texts = {name.lower(): value for name, value in fields.items() if isinstance(name, str) and isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if not username and texts.get("auth"):
        try:
            username, _, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("auth config: 'auth' is not base64 of user:password") from error
    return Credentials(
        username=username,
        password=password,
        identity_token=texts.get("identitytoken", ""),
        registry_token=texts.get("registrytoken", ""),
        server_address=texts.get("serveraddress", ""),
    )


def from_header(value: str | None) -> Credentials:
    """Read ``X-Registry-Auth``: URL-safe base64 of JSON, padded or not.  Raises ValueError.  Source: Engine API, Authentication."""
    if not value:
        return Credentials()
    padded = value.strip().rstrip("=")
    padded += "=" * (-len(padded) % 4)
    try:
        raw = base64.b64decode(padded.replace("+", "-").replace("/", "_"), altchars=b"-_", validate=True)
        fields = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError("invalid X-Registry-Auth header: it is not base64url-encoded JSON") from error
    return from_json(fields or {})


def origin_of(url: str) -> Origin:
    """The origin of ``url``.  Raises ValueError for anything but http and https with a host and without user information."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"refused: not an http or https address: {url[:200]!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("refused: an address with user information")
    return Origin(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])


def is_loopback(host: str) -> bool:
    """Whether ``host`` is localhost or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def may_reach(registry: Origin, target: Origin) -> bool:
    """Whether a registry may send us on to ``target``: never from https to http, never from outside to a private address."""
    if target == registry:
        return True
    if registry.scheme == "https" and target.scheme == "http":
        return False
    return _is_private(registry.host) or not _is_private(target.host)


def may_issue_tokens(registry: Origin, realm: Origin) -> bool:
    """Whether ``realm`` may see ``registry``'s credentials: its own origin, its host or parent domain over TLS, or a known pair."""
    if realm == registry:
        return True
    if realm.scheme != "https":
        return False
    parent = registry.host.endswith("." + realm.host) and realm.host.count(".") >= 1
    return realm.host == registry.host or parent or (registry.host, realm.host) in _REALMS


def _is_private(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return not address.is_global
