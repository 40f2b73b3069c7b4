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

Stamp = tuple[str, tuple[tuple[str, int, int, int], ...]]
"""A directory of certificates, and each file in it with what changes when it is written: another stamp, other contents."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})  # X509_V_ERR_...: no issuer, or one that vouches for itself
_OUT_OF_TIME = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})
_RECORD_WORDS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


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
        domain = _domain(origin)
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

    def stamp(self, origin: Origin) -> Stamp:
        """What ``context`` depends on besides the settings.  Raises OSError."""
        directory = self._directory(_domain(origin))
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


def tls_reason(error: BaseException, host: str) -> str:
    """Why TLS did not come about with ``host``, in Docker's words where it has some."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = error.verify_message
        if error.verify_code in _UNKNOWN_AUTHORITY:
            words = "certificate signed by unknown authority"
        elif error.verify_code in _OUT_OF_TIME:
            words = f"certificate has expired or is not yet valid: {error.verify_message}"
        elif error.verify_code in _OTHER_NAME:
            words = f"certificate is not valid for {host}"
        return f"tls: failed to verify certificate: x509: {words}"
    reason = getattr(error, "reason", None)
    if reason in _RECORD_WORDS:  # what came in place of a handshake has never been anything but HTTP
        return "http: server gave HTTP response to HTTPS client"
    if isinstance(reason, str) and "_ALERT_" in reason:
        return f"remote error: tls: {reason.partition('_ALERT_')[2].lower().replace('_', ' ')}"
    return f"tls: {reason.lower().replace('_', ' ') if reason else error}"


def _domain(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == _DEFAULT_PORTS[origin.scheme] else f"{host}:{origin.port}"


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
                _load_pair(context, path, os.path.join(directory, f"{stem}.key"))
            elif kind == "key" and f"{stem}.cert" not in names:
                raise ValueError(f"missing client certificate {stem}.cert for key {name}")
        except ssl.SSLError as error:
            raise ValueError(f"could not use {path}: it holds no certificate in PEM form") from error
        except OSError as error:  # of which Python does not name the file
            raise OSError(error.errno, error.strerror, path) from error


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
