"""Which registries are believed to be who they say: certificates by host, and hosts that need none.

Certificates lie as ``spec/certificates.py`` has it. They are for their host alone: where a redirect leads, they don't go.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wherry.spec import certificates
from wherry.spec.mirrors import TokenServer
from wherry.spec.origin import HUB_HOST, Origin, is_loopback
from wherry.spec.reference import DEFAULT_DOMAIN

Stamp = tuple[str, tuple[tuple[str, int, int, int], ...]]
"""A directory of certificates, and each file in it with what changes when it is written: another stamp, other contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """``insecure``: hosts, ``host:port`` or networks (CIDR) that may be reached without TLS.

    ``certificates``: directories; the first that knows a host is the one. ``token_servers``: of registries that have theirs elsewhere.
    """

    insecure: Sequence[str] = ()
    certificates: Sequence[str] = ()
    token_servers: Collection[TokenServer] = ()

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
        domain = origin.domain
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

    def has_token_server(self, registry: Origin, realm: Origin) -> bool:
        """Whether somebody has said that ``realm`` may be told credentials for ``registry``; not without TLS, unless those go so anyway."""
        is_named = TokenServer(registry=registry.domain, host=realm.domain) in self.token_servers
        return is_named and (realm.scheme == "https" or registry.scheme == "http")

    def stamp(self, origin: Origin) -> Stamp:
        """What ``context`` depends on besides the settings.  Raises OSError."""
        directory = self._directory(origin.domain)
        if directory is None:
            return "", ()
        with os.scandir(directory) as entries:
            files = [(entry.name, entry.stat()) for entry in entries]
        return directory, tuple(sorted((name, facts.st_mtime_ns, facts.st_size, facts.st_ino) for name, facts in files))

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
    authorities, pairs = certificates.sort_out(os.listdir(directory))
    for name in authorities:
        path = os.path.join(directory, name)
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise ValueError(f"could not use {path}: it holds no certificate in PEM form") from error
        except OSError as error:  # of which Python does not name the file
            raise OSError(error.errno, error.strerror, path) from error
    for certificate, key in pairs:
        _load_pair(context, os.path.join(directory, certificate), os.path.join(directory, key))


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"tls: private key does not match public key: {key}") from error
        raise ValueError(f"could not use {certificate} and {key}: not a pair in PEM form without a password") from error


def _in_network(host: str, entry: str) -> bool:
    try:
        return "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
