"""Which registries are believed to be who they say: certificates by host, and hosts that need none.

Certificates lie as Docker lays them out: ``DIRECTORY/HOST[:PORT]/`` has authorities (``*.crt``) and certificates of our own (``*.cert``
with ``*.key``). They are for that host alone: where a redirect leads, they don't go.  Source: docs.docker.com, "Verify repository client
with certificates".
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from wherry.registry.credentials import HUB_HOST, Origin, is_loopback
from wherry.spec.reference import DEFAULT_DOMAIN

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """``insecure``: hosts, ``host:port`` or networks (CIDR) that may be reached without TLS.

    ``certificates``: directories; the first that knows a host is the one.
    """

    insecure: Sequence[str] = ()
    certificates: Sequence[str] = ()

    def is_insecure(self, domain: str) -> bool:
        """Whether ``domain`` (with its port) may be spoken to without TLS: loopback always, and what the settings name."""
        host = host_of(domain)
        return is_loopback(host) or any(entry in (domain, host) or _in_network(host, entry) for entry in self.insecure)

    def has_authority(self, domain: str) -> bool:
        """Whether somebody has said who vouches for ``domain``: then it is held to that, insecure or not."""
        directory = self._directory(domain)
        return directory is not None and any(name.endswith(".crt") for name in os.listdir(directory))

    def context(self, origin: Origin) -> ssl.SSLContext | bool:
        """How TLS to ``origin`` is verified; True is the system's way.  Raises ValueError, OSError for bad certificates."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        domain = host if origin.port == _DEFAULT_PORTS[origin.scheme] else f"{host}:{origin.port}"
        directory = self._directory(domain)
        verify = not self.is_insecure(domain) or self.has_authority(domain)
        if directory is None and verify:
            return True
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if directory is not None:
            _load(context, directory)
        return context

    def _directory(self, domain: str) -> str | None:
        names = [domain, DEFAULT_DOMAIN] if domain == HUB_HOST else [domain]
        found = (os.path.join(directory, name) for directory in self.certificates for name in names)
        return next((path for path in found if os.path.isdir(path)), None)


def host_of(domain: str) -> str:
    """``domain`` without its port."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def _load(context: ssl.SSLContext, directory: str) -> None:
    names = sorted(os.listdir(directory))
    for name in names:
        path, (stem, _, kind) = os.path.join(directory, name), name.rpartition(".")
        try:
            if kind == "crt":
                context.load_verify_locations(path)
            elif kind == "cert":
                if f"{stem}.key" not in names:
                    raise ValueError(f"missing key {stem}.key for client certificate {name}. CA certificates must use the extension .crt")
                context.load_cert_chain(path, os.path.join(directory, f"{stem}.key"), password="")
            elif kind == "key" and f"{stem}.cert" not in names:
                raise ValueError(f"missing client certificate {stem}.cert for key {name}")
        except ssl.SSLError as error:
            raise ValueError(f"could not use {path}: {error.reason or error}") from error


def _in_network(host: str, entry: str) -> bool:
    try:
        return "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
