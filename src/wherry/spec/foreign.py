"""JSON that strangers wrote, read into little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_VALUES = 100_000  # more than any honest document has; 4 MiB of "[],[],..." would become a hundred megabytes of lists


def loads(raw: bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """As ``json.loads`` with ``object_pairs_hook``.  Raises ValueError, also for what is too deep or has too many values."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _VALUES:
        raise ValueError("too many values in one document")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        raise ValueError(_as_go_says(error)) from error
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _as_go_says(error: json.JSONDecodeError) -> str:
    """What Docker's tools tell of the same text."""
    place = next((place for words, place in _PLACES.items() if error.msg.startswith(words)), "")
    rest = error.doc[error.pos :]
    if place != _IN_STRING:
        rest = rest.lstrip(" \t\r\n")
    if not rest or not place:
        return "unexpected end of JSON input"
    if place == _AFTER_VALUE:
        place = {"[": "after array element", "{": "after object key:value pair"}[_innermost(error.doc[: error.pos])]
    return f"invalid character {_quoted(rest[0])} {place}"


def _innermost(text: str) -> str:
    """The bracket that is still open at the end of ``text``."""
    opened: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in ("[", "{"):
            opened.append(found[0])
        elif found[0] in ("]", "}"):
            opened.pop()
    return opened[-1]


def _quoted(character: str) -> str:
    return {"'": r"'\''", '"': "'\"'"}.get(character) or repr(character)


_AFTER_VALUE = "after a value"
_IN_STRING = "in string"
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')
_PLACES = {  # where Python's decoder stops, and what Go's says of it; of an unfinished string both stop at the end
    "Expecting value": "looking for beginning of value",
    "Expecting property name": "looking for beginning of object key string",
    "Illegal trailing comma": "looking for beginning of value",
    "Expecting ':'": "after object key",
    "Expecting ','": _AFTER_VALUE,
    "Extra data": "after top-level value",
    "Invalid control character": _IN_STRING,
    "Invalid \\": "in string escape code",
}
