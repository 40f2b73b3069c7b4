"""Who a client is at a registry, and where that may be told.

Credentials never travel without the origin they are for: the transport attaches them by comparing origins, and nothing else decides.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field


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
