"""Certificates by registry, as Docker lays them out: which files of a directory are what, and what TLS says when it does not come about.

``DIRECTORY/HOST[:PORT]/`` has authorities (``*.crt``) and certificates of our own (``*.cert`` with ``*.key``), for that host alone.
Source: docs.docker.com, "Verify repository client with certificates".
"""

from __future__ import annotations

from collections.abc import Iterable

DIRECTORIES = ("/etc/wherry/certs.d", "/etc/docker/certs.d")
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})  # X509_V_ERR_...: no issuer, or one that vouches for itself
_OUT_OF_TIME = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})
_RECORD_WORDS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


def sort_out(names: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The authorities among the files of a directory, and the certificates with their keys.  Raises ValueError for half a pair."""
    authorities: list[str] = []
    pairs: list[tuple[str, str]] = []
    ordered = sorted(names)
    for name in ordered:
        stem, _, kind = name.rpartition(".")
        certificate, key = f"{stem}.cert", f"{stem}.key"
        if kind == "crt":
            authorities.append(name)
        elif kind == "cert":
            if key not in ordered:
                raise ValueError(f"missing key {key} for client certificate {name}. CA certificates must use the extension .crt")
            pairs.append((name, key))
        elif kind == "key" and certificate not in ordered:
            raise ValueError(f"missing client certificate {certificate} for key {name}")
    return authorities, pairs


def tls_reason(error: BaseException, host: str) -> str:
    """Why TLS did not come about with ``host``, in Docker's words where it has some."""
    import ssl  # the command does mostly without

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
