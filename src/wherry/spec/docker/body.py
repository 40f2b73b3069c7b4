"""How an Engine API body is written and read: names, which fields appear, and Docker's tolerance.

A field is written in snake_case and travels in PascalCase unless ``field(name=...)`` or ``shown(..., name)`` says otherwise.
Two kinds of field mirror Go's struct tags::

    hostname: str = shown("")        # always in the JSON
    mac_address: str = ""            # `omitempty`: absent while it has its default

Reading follows Go's ``encoding/json``, on which clients lean: null means "not given", names match in any case when there is no exact
match, unknown names are ignored, and a list may stand where Docker takes a string or a list (see ``WORDS``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from wherry.errors import InvalidRequest

T = TypeVar("T")
Value = TypeVar("Value")

WORDS = msgspec.Meta(extra={"words": True})  # a list of strings that may also be sent as one string (Cmd, Entrypoint, Shell)
MAX_DEPTH = 64
_INT64 = (-(2**63), 2**63 - 1)
MAX_VALUES = 200_000  # thirty thousand published ports; 16 MiB of "[],[],..." would become four hundred megabytes of lists


class Body(msgspec.Struct, omit_defaults=True, rename="pascal", kw_only=True):
    """Base of every body.  Mutable: the engine fills in what the daemon decides."""


def shown(value: Value, name: str | None = None) -> Value:
    """A field with default ``value`` that is always in the JSON, called ``name`` there.

    msgspec omits a default only where it can recognise one: it never does for a ``default_factory`` that is not a bare list, dict or set.
    """
    factory: Callable[[], Value] = _factory(value)
    return msgspec.field(default_factory=factory, name=name)


def encode(value: object) -> bytes:
    """JSON as Go writes it: compact, with a final newline."""
    return msgspec.json.encode(value, enc_hook=_plain) + b"\n"


def html_escaped(encoded: bytes) -> bytes:
    """JSON that may stand in a web page: outside of strings it has none of these characters.  Source: Go's json.HTMLEscape."""
    return encoded.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _plain(value: object) -> str:
    """A checked string (a digest) travels as a plain one."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def read(kind: type[T], raw: bytes) -> T:
    """A request body as ``kind``.  Raises InvalidRequest in Docker's words."""
    if not raw.strip():
        raise InvalidRequest("invalid JSON: got EOF while reading request body")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise InvalidRequest("invalid JSON: too many values in one document")
    try:
        return convert(kind, msgspec.json.decode(raw))
    except RecursionError:
        raise InvalidRequest("invalid JSON: exceeded max depth") from None
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid JSON: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(_malformed(str(error))) from None


def convert(kind: type[T], data: object) -> T:
    """Already decoded JSON as ``kind``, with the same tolerance.  Raises msgspec.ValidationError."""
    if data is None and issubclass(get_origin(kind) or kind, msgspec.Struct):
        data = {}  # Go leaves a struct as it is
    return msgspec.convert(_tidy(data, kind, 0), kind)


def _factory(value: Value) -> Any:
    if isinstance(value, (list, dict)):
        return lambda: value.copy()
    kind = type(value)
    return kind if value is None or value == kind() else lambda: value


def _malformed(reason: str) -> str:
    if "trailing" in reason:
        return "unexpected content after JSON"
    if "truncated" in reason:
        return "invalid JSON: unexpected EOF"
    return f"invalid JSON: {reason}"


def _tidy(data: object, kind: Any, depth: int) -> object:
    """``data`` with exact names and without the nulls and single strings that ``kind`` does not spell out."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(data, int) and not _INT64[0] <= data <= _INT64[1]:  # what is kept of it, no client written in Go could read any more
        raise msgspec.ValidationError(f"json: cannot unmarshal number {data} into Go value of type int64")
    shape, words = _shape(kind)
    if words and isinstance(data, str):
        return [data]
    if isinstance(data, dict):
        if isinstance(shape, Mapping):
            return _tidy_fields(data, shape, depth)
        if shape is not None:
            return {key: _tidy(value, shape, depth + 1) for key, value in data.items()}
    if isinstance(data, list) and shape is not None and not isinstance(shape, Mapping):
        return [_tidy(value, shape, depth + 1) for value in data]
    return data


def _tidy_fields(data: dict[str, object], shape: Mapping[str, tuple[str, Any]], depth: int) -> dict[str, object]:
    tidied: dict[str, object] = {}
    for key, value in data.items():
        if value is None:
            continue
        name, kind = shape.get(key) or shape.get(key.lower()) or (key, None)
        if name == key or name not in data:
            tidied[name] = _tidy(value, kind, depth + 1)
    return tidied


@cache
def _shape(kind: Any) -> tuple[Any, bool]:
    """For a struct: its names (exact and lower-case) with their types; for a list or dict: the type of its values."""
    words = False
    if isinstance(getattr(kind, "__metadata__", None), tuple):
        words = WORDS in kind.__metadata__
        kind = kind.__origin__
    if get_origin(kind) in (Union, UnionType):
        parts = [_shape(part) for part in get_args(kind) if part is not NoneType]
        return next((shape for shape, _ in parts if shape is not None), None), words or any(flag for _, flag in parts)
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1], words
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _names(kind), words
    return None, words


def _names(kind: type[msgspec.Struct]) -> Mapping[str, tuple[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    pairs = list(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    exact = {encoded: (encoded, hints[field]) for encoded, field in pairs}
    return MappingProxyType({encoded.lower(): found for encoded, found in exact.items()} | exact)
