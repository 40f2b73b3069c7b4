"""Ids: 64 hex digits, short forms, unique prefixes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

SHORT = 12


def new_id() -> str:
    """A fresh 64-digit hex id whose short form is not all decimal digits (a numeric one would read as a number)."""
    while True:
        ident = secrets.token_hex(32)
        if not ident[:SHORT].isdigit():
            return ident


def short(ident: str) -> str:
    """The first twelve digits, without an algorithm prefix."""
    return ident.removeprefix("sha256:")[:SHORT]


def matching_prefix(prefix: str, ids: Iterable[str]) -> list[str]:
    """All of ``ids`` that start with ``prefix``; exact equality wins alone."""
    found = [ident for ident in ids if ident.startswith(prefix)]
    return [prefix] if prefix in found else found
