"""What the registry's process is told: the command line hands it over as JSON.  Data only."""

from __future__ import annotations

import msgspec

from wherry.spec.proxies import Proxies


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """``data``: the directory that holds everything, or, with ``s3`` (``s3://bucket/prefix``), what is on its way there."""

    data: str
    s3: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """``wherry registry serve``; empty is not given."""

    storage: Storage
    host: str
    port: int
    htpasswd: str = ""
    rights: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    read_only: bool = False
    quiet: bool = False
    max_blob_bytes: int = 128 << 30
    proxy: str = ""
    proxy_user: str = ""
    proxy_password_file: str = ""
    proxy_fresh_s: float = 60.0
    proxy_most_bytes: int = 0
    proxies: Proxies = Proxies()


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    """``wherry registry gc``."""

    storage: Storage
    dry_run: bool = False
    untagged: bool = False
    young_s: float = 3600.0


class Password(msgspec.Struct, frozen=True, kw_only=True):
    """``wherry registry passwd``."""

    name: str
