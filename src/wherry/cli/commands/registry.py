"""``wherry registry``: serve a registry in the foreground, remove what it needs no more, make a line of its password file."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from wherry.spec.proxies import Proxies
    from wherry.spec.registry import Collect, Password, Serve, Storage

SECOND_NS = 10**9
LARGEST_BLOB = 128 << 30


def run_serve(invocation: Invocation) -> int:
    from wherry.spec.registry import Serve

    host, port = invocation.value("listen") or ("127.0.0.1", 5000)
    _together(invocation, "tls-cert", "tls-key")
    _together(invocation, "proxy-user", "proxy-password-file")
    _only_with(invocation, "tls-client-ca", "tls-cert")
    _only_with(invocation, "rights", "htpasswd")
    _only_with(invocation, "proxy-user", "proxy")
    _only_with(invocation, "proxy-ttl", "proxy")
    _only_with(invocation, "proxy-max-size", "proxy")
    if "proxy-max-size" in invocation.given and "s3" in invocation.given:
        raise Failure("--proxy-max-size is for --data: a bucket has rules of its own for what is old")
    order = Serve(
        storage=_storage(invocation),
        host=host,
        port=port,
        htpasswd=invocation.text("htpasswd"),
        rights=invocation.text("rights"),
        tls_cert=invocation.text("tls-cert"),
        tls_key=invocation.text("tls-key"),
        tls_client_ca=invocation.text("tls-client-ca"),
        read_only=invocation.flag("read-only"),
        quiet=invocation.flag("quiet"),
        max_blob_bytes=invocation.number("max-blob-size") or LARGEST_BLOB,
        proxy=invocation.text("proxy"),
        proxy_user=invocation.text("proxy-user"),
        proxy_password_file=invocation.text("proxy-password-file"),
        proxy_fresh_s=_seconds(invocation, "proxy-ttl", 60.0),
        proxy_most_bytes=invocation.number("proxy-max-size"),
        proxies=_proxies(),
    )
    _become("serve", order)


def run_gc(invocation: Invocation) -> int:
    from wherry.spec.registry import Collect

    young_s = _seconds(invocation, "older-than", 3600.0)
    order = Collect(storage=_storage(invocation), dry_run=invocation.flag("dry-run"), untagged=invocation.flag("untagged"), young_s=young_s)
    _become("gc", order)


def run_passwd(invocation: Invocation) -> int:
    from wherry.spec.registry import Password

    _become("passwd", Password(name=invocation.arguments[0]))


def _proxies() -> Proxies:
    from wherry.spec.proxies import of_environment

    try:
        return of_environment(os.environ).checked()
    except ValueError as error:
        raise Failure(f"wherry: {error}", 125) from error


def _become(work: str, order: Serve | Collect | Password) -> NoReturn:
    import msgspec

    text = msgspec.json.encode(order).decode()
    os.execv(sys.executable, [sys.executable, "-m", "wherry.registry.serve", work, text])


def _storage(invocation: Invocation) -> Storage:
    from wherry.spec.registry import Storage

    _only_with(invocation, "s3-endpoint", "s3")
    _only_with(invocation, "s3-region", "s3")
    return Storage(
        data=os.path.abspath(invocation.text("data") or _default_data()),
        s3=invocation.text("s3"),
        s3_endpoint=invocation.text("s3-endpoint"),
        s3_region=invocation.text("s3-region"),
    )


def _default_data() -> str:
    if os.geteuid() == 0:
        return "/var/lib/wherry-registry"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(home, "wherry-registry")


def _seconds(invocation: Invocation, name: str, default: float) -> float:
    return invocation.number(name) / SECOND_NS if name in invocation.given else default


def _together(invocation: Invocation, first: str, second: str) -> None:
    if bool(invocation.text(first)) != bool(invocation.text(second)):
        raise Failure(f"wherry: --{first} and --{second} belong together", 125)


def _only_with(invocation: Invocation, name: str, other: str) -> None:
    if name in invocation.given and not invocation.text(other):
        raise Failure(f"wherry: --{name} means nothing without --{other}", 125)


def parse_address(text: str) -> tuple[str, int]:
    """``ADDRESS:PORT``, ``[v6]:PORT`` or ``:PORT`` (all addresses)."""
    import ipaddress

    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError("not ADDRESS:PORT")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if not host:
        return "0.0.0.0", int(port)
    return ("127.0.0.1" if host == "localhost" else str(ipaddress.IPv4Address(host))), int(port)


def positive_duration(text: str) -> int:
    from wherry.spec.moment import parse_duration

    value = parse_duration(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


_STORAGE = (
    Flag("data", "string", "Directory that holds everything (default /var/lib/wherry-registry, or ~/.local/share/wherry-registry)"),
    Flag("s3", "string", "Keep images in an S3-compatible store (s3://BUCKET/PREFIX); --data then holds only uploads on their way"),
    Flag("s3-endpoint", "string", "URL of a store that is not Amazon's"),
    Flag("s3-region", "string", "Region of the bucket"),
)

SERVE = Command(
    "[OPTIONS]",
    "Serve a registry in the foreground",
    run_serve,
    flags=(
        Flag("listen", "string", "ADDRESS:PORT to listen on (default 127.0.0.1:5000)", parse=parse_address, single=True),
        *_STORAGE,
        Flag("rights", "string", "What those may do where: a file of lines NAME REPOSITORIES pull|push|delete"),
        Flag("htpasswd", "string", "Let in only those named in this file (lines of 'wherry registry passwd', or bcrypt)"),
        Flag("tls-cert", "string", "Serve HTTPS with this certificate chain (PEM)"),
        Flag("tls-key", "string", "The certificate's key (PEM)"),
        Flag("tls-client-ca", "string", "Let in only clients with a certificate of these authorities (PEM)"),
        Flag("read-only", "bool", "Take no pushes and no deletes"),
        Flag("max-blob-size", "bytes", "Largest blob taken (default 128g)"),
        Flag("proxy", "string", "Be a read-only cache in front of the registry at this URL (docker.io for Docker Hub)"),
        Flag("proxy-user", "string", "Who the cache is at that registry"),
        Flag("proxy-password-file", "string", "File whose first line is that user's password"),
        Flag("proxy-ttl", "duration", "How long a tag is not asked for again (default 1m)", parse=positive_duration),
        Flag("proxy-max-size", "bytes", "Most that the cache keeps; what was read longest ago goes first (default: all)"),
        Flag("quiet", "bool", "Do not log requests", short="q"),
    ),
    maximum=0,
)
GC = Command(
    "[OPTIONS]",
    "Remove blobs that no manifest names; the registry may run meanwhile",
    run_gc,
    flags=(
        *_STORAGE,
        Flag("dry-run", "bool", "Only say what would be removed"),
        Flag("untagged", "bool", "Remove manifests too that no tag leads to"),
        Flag(
            "older-than",
            "duration",
            "Spare what was pushed since: its manifest may be on the way (default 1h)",
            parse=positive_duration,
        ),
    ),
    maximum=0,
)
PASSWD = Command(
    "NAME", "Print a line for --htpasswd; the password is asked for, or read from standard input", run_passwd, minimum=1, maximum=1
)
