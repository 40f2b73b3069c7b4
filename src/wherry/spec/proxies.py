"""Which HTTP proxy leads to an address.  Source: dockerd's ``proxies``; Go's golang.org/x/net/http/httpproxy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_USER = re.compile(r"^([a-z0-9+.-]+://)?[^/@]*@", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """``http``, ``https``: proxy for addresses of that scheme, empty for none.

    ``no``: what is reached directly, by commas: hosts, ``.domain``, addresses, networks, any with a port; ``*`` is all. Loopback always is.
    """

    http: str = ""
    https: str = ""
    no: str = ""

    def for_url(self, url: str) -> str | None:
        """The proxy's own URL, or None where there is none to be used."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").rstrip(".").lower()
        if not proxy or host == "localhost" or self._is_direct(host, parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)):
            return None
        return _address(proxy)

    def checked(self) -> Proxies:
        """Itself.  Raises ValueError for a proxy of a kind that is not spoken."""
        for proxy in filter(None, (self.http, self.https)):
            parts = urlsplit(_address(proxy))
            if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
                raise ValueError(f"invalid proxy address {masked(proxy)!r}: it must be http:// or https://")
        return self

    def _is_direct(self, host: str, port: int) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if address is not None and address.is_loopback:
            return True
        for entry in filter(None, (item.strip().lower() for item in self.no.split(","))):
            if entry == "*" or (address is not None and _in_network(address, entry)):
                return True
            name, wanted_port = _split_port(entry)
            if wanted_port not in ("", str(port)):
                continue
            name = name.removeprefix("*") if name.startswith("*.") else name
            if host == name.rstrip(".") or (address is None and name and host.endswith(name if name.startswith(".") else f".{name}")):
                return True
        return False


def of_environment(environment: Mapping[str, str]) -> Proxies:
    """As ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` say, in capitals or not."""

    def get(name: str) -> str:
        return environment.get(name) or environment.get(name.lower()) or ""

    return Proxies(http=get("HTTP_PROXY"), https=get("HTTPS_PROXY"), no=get("NO_PROXY"))


def masked(proxy: str) -> str:
    """As it may be shown: without user and password."""
    return _USER.sub(r"\1xxxxx:xxxxx@", proxy)


def _address(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    """Of one address or many."""
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, str]:
    """Name and port; an address in brackets without them."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = entry.partition(":")
    return (name, port) if port.isdecimal() else (entry, "")
