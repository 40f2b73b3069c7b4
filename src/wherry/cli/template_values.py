"""How Go prints, compares and encodes the values that templates see.

Values are what JSON gives (None, bool, int, float, str, list, dict) and three more: ``Record``, a struct whose unknown fields are an
error; ``Null``, an absent list, map or pointer of a known type; ``MISSING``, what a map gives for a key it lacks.  Source: Go fmt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wherry.cli.template_tokens import quote

MAX_WIDTH = 100_000
_WITH_NAMES = "v"  # what the flag "+" means for the verb "v": the names of a struct's fields, and no sign


class Record(dict[str, Any]):
    """A struct of Go type ``go_type``; ``methods`` may be called with arguments and are not printed or encoded."""

    __slots__ = ("go_type", "methods", "optional")

    def __init__(
        self,
        values: Mapping[str, Any],
        go_type: str = "",
        methods: Mapping[str, Callable[..., Any]] | None = None,
        optional: Mapping[str, Null] | None = None,
    ) -> None:
        super().__init__(values)
        self.go_type = go_type
        self.methods = methods or {}
        self.optional = optional or {}


class Named(str):
    """What JSON has as a string, and Go as the type ``go_type`` with methods; printed as ``shown`` where that is another."""

    __slots__ = ("go_type", "methods", "shown")

    go_type: str
    methods: Mapping[str, Callable[..., Any]]
    shown: str

    def __new__(cls, text: str, go_type: str, methods: Mapping[str, Callable[..., Any]], shown: str | None = None) -> Named:
        made = super().__new__(cls, text)
        made.go_type = go_type
        made.methods = methods
        made.shown = text if shown is None else shown
        return made


class Duration(int):
    """Nanoseconds; printed as Go prints a ``time.Duration``."""

    __slots__ = ()

    def __str__(self) -> str:
        from wherry.spec.moment import go_duration

        return go_duration(int(self))

    @property
    def methods(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "String": lambda: str(self),
            "Nanoseconds": lambda: int(self),
            "Microseconds": lambda: int(self / 10**3),
            "Milliseconds": lambda: int(self / 10**6),
            "Seconds": lambda: self / 10**9,
            "Minutes": lambda: self / (60 * 10**9),
            "Hours": lambda: self / (3600 * 10**9),
        }


class Null:
    """A nil of a known type: false, empty, ``null`` in JSON, printed as ``text``."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __bool__(self) -> bool:
        return False


class _Missing:
    __slots__ = ()

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()
NIL_LIST = Null("[]")
NIL_MAP = Null("map[]")
NIL_POINTER = Null("<nil>")


def go_type(value: object) -> str:
    """The name Go would give the type of ``value``."""
    if isinstance(value, Record):
        return value.go_type or "struct"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "time.Duration" if isinstance(value, Duration) else "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return value.go_type if isinstance(value, Named) else "string"
    if isinstance(value, list):
        return "[]string" if value and all(isinstance(item, str) for item in value) else "[]interface {}"
    return "map[string]interface {}" if isinstance(value, dict) else "<nil>"


def is_true(value: object) -> bool:
    """Whether ``if`` takes it: not false, zero, nil or empty; a struct always is."""
    return True if isinstance(value, Record) else bool(value)


def to_text(value: object) -> str:
    """As an action prints it (``%v``)."""
    if isinstance(value, str):
        return value.shown if isinstance(value, Named) else value
    if value is None or value is MISSING:
        return "<no value>"
    return format_value(value)


def format_value(value: object) -> str:
    """As ``%v`` prints it."""
    if isinstance(value, str):
        return value.shown if isinstance(value, Named) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format_float(value)
    if isinstance(value, Record):
        return "{" + " ".join(format_value(item) for item in value.values()) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{format_value(key)}:{format_value(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(format_value(item) for item in value) + "]"
    if value is None or value is MISSING:
        return "<nil>"
    return value.text if isinstance(value, Null) else str(value)


def format_float(value: float) -> str:
    """The shortest digits that read back the same, in Go's ``%v`` layout."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    digits, _, exponent = f"{value:e}".partition("e")
    if -4 <= int(exponent) < 6 or not value:
        return repr(value).removesuffix(".0")
    digits = _shortest(value)
    power = int(exponent)
    return f"{digits}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _shortest(value: float) -> str:
    """The mantissa of ``value`` with as few digits as read back the same."""
    for precision in range(17):
        text = f"{value:.{precision}e}"
        if float(text) == value:
            return text.partition("e")[0]
    return f"{value:.17e}".partition("e")[0]


def to_json(value: object, *, escape_html: bool = False, sort_keys: bool = True) -> str:
    """Compact JSON as Go's encoder writes it; a map's keys are sorted, a struct's are in order."""
    out: list[str] = []
    _encode(value, out, escape_html, sort_keys)
    return "".join(out)


def _encode(value: object, out: list[str], escape_html: bool, sort_keys: bool) -> None:
    if isinstance(value, str):
        out.append(json_string(value, escape_html=escape_html))
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, int):
        out.append(int.__repr__(value))
    elif isinstance(value, float):
        out.append(_json_float(value))
    elif isinstance(value, dict):
        out.append("{")
        keys = sorted(value) if sort_keys and not isinstance(value, Record) else list(value)
        for number, key in enumerate(keys):
            out.append(("," if number else "") + json_string(key, escape_html=escape_html) + ":")
            _encode(value[key], out, escape_html, sort_keys)
        out.append("}")
    elif isinstance(value, list):
        out.append("[")
        for number, item in enumerate(value):
            if number:
                out.append(",")
            _encode(item, out, escape_html, sort_keys)
        out.append("]")
    else:
        out.append("null")


def _json_float(value: float) -> str:
    if value and not 1e-6 <= abs(value) < 1e21:
        return format_float(value).replace("e-0", "e-")
    return f"{value:f}".rstrip("0").rstrip(".") if "e" in repr(value) else repr(value).removesuffix(".0")


_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def json_string(text: str, *, escape_html: bool = False) -> str:
    """``text`` as Go's encoding/json writes a string."""
    if text.isalnum():
        return f'"{text}"'
    out = ['"']
    for char in text:
        if char in _JSON_ESCAPES:
            out.append(_JSON_ESCAPES[char])
        elif char < " " or char in "\u2028\u2029" or (escape_html and char in "<>&"):
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    out.append('"')
    return "".join(out)


def sprintf(layout: str, values: Sequence[object]) -> str:
    """Go's ``fmt.Sprintf``, with its complaints (``%!d(string=x)``) inside the result."""
    out: list[str] = []
    used = 0
    at = 0
    while True:
        mark = layout.find("%", at)
        if mark < 0:
            out.append(layout[at:])
            break
        out.append(layout[at:mark])
        at = mark + 1
        flags = ""
        while at < len(layout) and layout[at] in "+-# 0":
            flags += layout[at]
            at += 1
        width, at, used, complaint = _measure(layout, at, values, used, "WIDTH")
        out.append(complaint)
        if width is not None and width < 0:
            flags, width = flags + "-", -width
        precision: int | None = None
        if layout[at : at + 1] == ".":
            precision, at, used, complaint = _measure(layout, at + 1, values, used, "PREC")
            out.append(complaint)
            precision = max(precision or 0, 0)
        if at >= len(layout):
            out.append("%!(NOVERB)")
            break
        verb = layout[at]
        at += 1
        if verb == "%":
            out.append("%")
        elif used >= len(values):
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_format(verb, values[used], flags, width, precision))
            used += 1
    if used < len(values):
        out.append(f"%!(EXTRA {', '.join(_described(value) for value in values[used:])})")
    return "".join(out)


def _measure(layout: str, at: int, values: Sequence[object], used: int, name: str) -> tuple[int | None, int, int, str]:
    """A width or precision: its value, where to go on, how many arguments are used, and a complaint."""
    if layout[at : at + 1] == "*":
        value = values[used] if used < len(values) else None
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WIDTH:
            return value, at + 1, used + 1, ""
        return None, at + 1, used + 1, f"%!(BAD{name})"
    start = at
    while at < len(layout) and layout[at] in "0123456789":
        at += 1
    if start == at:
        return None, at, used, ""
    if at - start > 6 or int(layout[start:at]) > MAX_WIDTH:
        return None, at, used, f"%!(BAD{name})"
    return int(layout[start:at]), at, used, ""


def _described(value: object) -> str:
    if value is None or value is MISSING:
        return "<nil>"
    return f"{go_type(value)}={format_value(value)}"


def _format(verb: str, value: object, flags: str, width: int | None, precision: int | None) -> str:
    if verb == "v":
        flags = flags.replace("+", _WITH_NAMES)
    if verb == "T":
        return _pad(go_type(value), flags, width)
    if value is None or value is MISSING:
        return _pad("<nil>", flags, width) if verb == "v" else f"%!{verb}(<nil>)"
    if isinstance(value, list | dict) and verb in "vsqdxX":
        return _format_compound(verb, value, flags, width, precision)
    text = _format_scalar(verb, value, flags, precision)
    if text is None:
        return f"%!{verb}({_described(value)})"
    return _pad(text, flags, width, numeric=isinstance(value, int | float) and not isinstance(value, bool))


def _format_compound(verb: str, value: list[Any] | dict[str, Any], flags: str, width: int | None, precision: int | None) -> str:
    if verb == "v" and "#" in flags:
        return format_value(value)
    if isinstance(value, list):
        return "[" + " ".join(_format(verb, item, flags, width, precision) for item in value) + "]"
    pairs = [(key, _format(verb, value[key], flags, width, precision)) for key in (value if isinstance(value, Record) else sorted(value))]
    if isinstance(value, Record):
        return "{" + " ".join(f"{key}:{text}" if _WITH_NAMES in flags else text for key, text in pairs) + "}"
    return "map[" + " ".join(f"{_format(verb, key, flags, width, precision)}:{text}" for key, text in pairs) + "]"


def _format_scalar(verb: str, value: object, flags: str, precision: int | None) -> str | None:
    if isinstance(value, Null):
        return value.text if verb in "vs" else None
    if isinstance(value, bool):
        return format_value(value) if verb in "vt" else None
    if isinstance(value, Duration) and verb in "vs":
        return str(value)
    if isinstance(value, int):
        return _format_integer(verb, value, flags)
    if isinstance(value, float):
        return _format_number(verb, value, flags, precision)
    if not isinstance(value, str):
        return None
    if verb in "vsq":
        value = format_value(value)
        text = value if precision is None else value[:precision]
        return quote(text) if verb == "q" or (verb == "v" and "#" in flags) else text
    if verb in "xX":
        return value.encode("utf-8", "surrogatepass").hex() if verb == "x" else value.encode("utf-8", "surrogatepass").hex().upper()
    return None


def _format_integer(verb: str, value: int, flags: str) -> str | None:
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    size = abs(value)
    if verb in "vd":
        return f"{sign}{size}"
    if verb in "xXob":
        return sign + format(size, ("#" if "#" in flags and verb in "xX" else "") + verb)
    if verb in "cqU":
        if not 0 <= value <= 0x10FFFF:
            return None if verb == "U" else "\ufffd"
        return f"U+{value:04X}" if verb == "U" else f"'{chr(value)}'" if verb == "q" else chr(value)
    return None


def _format_number(verb: str, value: float, flags: str, precision: int | None) -> str | None:
    if verb not in "vfFeEgG":
        return None
    if verb in "vgG" and precision is None:
        text = format_float(value)
    else:
        text = f"{value:.{6 if precision is None else precision}{'g' if verb == 'v' else verb}}"
    return "+" + text if "+" in flags and value >= 0 else " " + text if " " in flags and value >= 0 else text


def _pad(text: str, flags: str, width: int | None, *, numeric: bool = False) -> str:
    if width is None or len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if "0" not in flags:
        return text.rjust(width)
    return text.zfill(width) if numeric else text.rjust(width, "0")
