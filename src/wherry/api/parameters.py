"""Query values and headers -> typed values, as Docker reads them.  Pure; every failure is InvalidRequest in Docker's words."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from wherry.errors import InvalidRequest
from wherry.spec.docker.body import convert
from wherry.spec.docker.request import Filters
from wherry.spec.docker.system import AuthConfig
from wherry.spec.image import Platform

MAX_FIELDS = 4096
FALSE = frozenset({"", "0", "no", "false", "none"})

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_TIME = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9}))?")

T = TypeVar("T")


def parse_query(query: str) -> dict[str, list[str]]:
    """Every value of every name, in order."""
    values: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"malformed query: {error}") from None
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def boolean(text: str) -> bool:
    """Everything is true but "", 0, no, false and none."""
    return text.strip().lower() not in FALSE


def integer(text: str, default: int = 0) -> int:
    if not text:
        return default
    if _INTEGER.fullmatch(text) is None:
        raise InvalidRequest(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def moment_ns(text: str) -> int:
    """``seconds[.fraction]`` since the epoch as nanoseconds; empty is 0."""
    if not text:
        return 0
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(found[1]) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))


def tail(text: str) -> int | None:
    """The number of log lines to show; None for all of them, which is also what a bad number means to Docker."""
    digits = text.removeprefix("+")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None


def filters(text: str) -> Filters:
    """A ``filters`` parameter: ``{"key": ["value"]}``, or as before API 1.22 ``{"key": {"value": true}}``."""
    if not text:
        return {}
    try:
        data = msgspec.json.decode(text.encode(), type=dict[str, dict[str, bool] | list[str] | None])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise InvalidRequest("invalid filter") from None
    return {key: tuple(dict.fromkeys(values or ())) for key, values in data.items()}


def json_value(text: str, kind: type[T], default: T, what: str) -> T:
    """A parameter that is itself JSON."""
    if not text:
        return default
    try:
        return convert(kind, msgspec.json.decode(text.encode()))
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidRequest(f"error reading {what}: {error}") from None


def platform(text: str) -> Platform | None:
    """A platform as JSON: ``{"os": "linux", "architecture": "amd64"}``; None for an empty text."""
    if not text:
        return None
    try:
        found = msgspec.json.decode(text.encode(), type=_Platform)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        start = text.lstrip()[:1]
        known = isinstance(error, msgspec.ValidationError) or start in ("{", "[", '"')
        reason = str(error) if known else f"invalid character '{start}' looking for beginning of value"
        raise InvalidRequest(f"failed to parse platform: {reason}") from None
    if not found.os and not found.architecture and found.variant:
        raise InvalidRequest("optional platform fields provided, but OS and Architecture are missing")
    if not found.os or not found.architecture:
        raise InvalidRequest("both OS and Architecture must be provided")
    return Platform(os=found.os, architecture=found.architecture, variant=found.variant)


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def registry_auth(header: str) -> AuthConfig | None:
    """X-Registry-Auth; None where it is absent, empty or, as Docker has it, unreadable."""
    try:
        auth = convert(AuthConfig, _decode(header))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return None if auth == AuthConfig() else auth


def registry_config(header: str) -> Mapping[str, AuthConfig]:
    """X-Registry-Config of a build: registry -> credentials."""
    try:
        return convert(dict[str, AuthConfig], _decode(header))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return {}


def _decode(header: str) -> object:
    try:
        padded = header.rstrip("=") + "=" * (-len(header.rstrip("=")) % 4)
        return msgspec.json.decode(base64.b64decode(padded.replace("+", "-").replace("/", "_"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(str(error)) from None
