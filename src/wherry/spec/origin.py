"""Origins: scheme, host and port, what must be equal for a secret to be sent, and where one origin may send us on to."""

from __future__ import annotations

from dataclasses import dataclass
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
    def domain(self) -> str:
        """As people write it: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


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
