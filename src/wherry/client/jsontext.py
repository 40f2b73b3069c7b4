"""JSON for a program that lives for milliseconds: the C scanner and encoder of the standard library without the ``re`` import of ``json``.

``import json`` costs about 5 ms, ``msgspec`` about 25 ms; this costs 0.3 ms. Where the accelerator is missing, ``json`` does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WHITESPACE = " \t\n\r"


class _Context:
    """What the C scanner asks its owner for."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - read by C code under this name

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"not JSON: {name}")


def _build() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[Any, int], Any], Callable[[str], str]]:
    try:
        import _json
    except ImportError:
        import json

        return json.JSONDecoder(strict=False).raw_decode, _slow_encode, json.encoder.py_encode_basestring

    encoder = _json.make_encoder(None, _refuse, _json.encode_basestring, None, ":", ",", False, False, False)
    scanner: Any = _json.make_scanner(_Context())  # type: ignore[arg-type]  # duck typed: json.JSONDecoder would import re

    def scan(text: str, position: int) -> tuple[Any, int]:
        try:
            found: tuple[Any, int] = scanner(text, position)
        except (StopIteration, SystemError):  # the latter for what is broken within: it finds its exception in json.decoder alone
            raise ValueError(f"not JSON: {text[position : position + 80]!r}") from None
        return found

    return scan, encoder, _json.encode_basestring


def _slow_encode(value: object, _level: int) -> tuple[str, ...]:
    import json

    return (json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False),)


def _refuse(value: object) -> object:
    raise TypeError(f"not JSON: {type(value).__name__}")


_scan, _encode, quote = _build()


def parse(text: str | bytes) -> Any:
    """The value of one JSON text.  Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = text.strip(_WHITESPACE)
    value, end = _scan(text, 0)
    if end != len(text):
        raise ValueError(f"not JSON: {text[end : end + 80]!r} after the value")
    return value


def parse_many(text: str) -> tuple[list[Any], str]:
    """All complete values at the start of ``text`` (a stream of JSON objects), and the rest that is not complete yet."""
    values: list[Any] = []
    position = 0
    while True:
        while position < len(text) and text[position] in _WHITESPACE:
            position += 1
        if position == len(text):
            return values, ""
        try:
            value, position = _scan(text, position)
        except ValueError:
            return values, text[position:]
        values.append(value)


def dump(value: object) -> str:
    """``value`` as compact JSON."""
    return "".join(_encode(value, 0))


def pretty(value: object, indent: str = "    ", margin: str = "") -> str:
    """``value`` as Go's ``json.MarshalIndent`` lays it out: one member per line, empty containers closed at once."""
    inner = margin + indent
    if isinstance(value, dict) and value:
        members = [f"{inner}{quote(key)}: {pretty(item, indent, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(members) + "\n" + margin + "}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + pretty(item, indent, inner) for item in value) + "\n" + margin + "]"
    return dump(value)
