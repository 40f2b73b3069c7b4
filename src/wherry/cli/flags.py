"""Command specifications and the parser of their command lines, with the semantics of Go's pflag and Docker's error texts.

A command module holds ``COMMAND = Command(...)``; ``parse`` turns words into an ``Invocation``, which its ``run`` receives. Nothing is
imported here: this is on the way of every command.
"""

from __future__ import annotations

from wherry.spec.moment import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from wherry.cli.program import Program

MANY = 1 << 30
TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Failure(Exception):
    """The command ends here: ``str`` goes to standard error, ``status`` is the exit code."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class UsageFailure(Failure):
    """Wrong words on the command line; the usage line and a hint are shown too.  ``prefixed``: the program's name comes first."""

    def __init__(self, message: str, status: int = 125, *, prefixed: bool = False) -> None:
        super().__init__(message, status)
        self.prefixed = prefixed


class HelpWanted(Exception):
    """``--help`` was among the flags.  ``deprecated``: it was spelled ``-h``."""

    def __init__(self, *, deprecated: bool = False) -> None:
        super().__init__("help")
        self.deprecated = deprecated


class Flag:
    """One flag.

    ``kind``: bool, string, int, uint16 hold one value; list, map, filter and others repeat, unless ``parse`` and ``single``. ``parse``
    checks and converts one value and raises ValueError with the reason. ``alias_of`` names the flag whose value this spelling sets.
    ``refused``: why this cannot be carried out; giving it fails with that reason.
    """

    __slots__ = ("alias_of", "default", "help", "hidden", "kind", "name", "parse", "refused", "shorthand", "single")

    def __init__(
        self,
        name: str,
        kind: str = "bool",
        help: str = "",
        *,
        short: str = "",
        default: object = None,
        hidden: bool = False,
        parse: Callable[[str], object] | None = None,
        single: bool = False,
        alias_of: str = "",
        refused: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.shorthand = short
        self.hidden = hidden or bool(alias_of)
        self.parse = parse or _PARSERS.get(kind)
        self.single = single or kind in _SINGLE
        self.default = default if default is not None else (_ZERO[kind] if kind in _ZERO else (None if self.single else ()))
        self.alias_of = alias_of
        self.refused = refused

    def spelled(self) -> str:
        """As Docker quotes it in errors: ``"-p, --publish"``."""
        return f"-{self.shorthand}, --{self.name}" if self.shorthand else f"--{self.name}"


class Command:
    """One command: what follows its name in the usage line, one line of help, its flags, how many arguments, and what it does.

    ``interspersed``: flags may follow arguments. ``raw``: all words are arguments, for another program to read.
    """

    __slots__ = ("flags", "interspersed", "maximum", "minimum", "raw", "run", "summary", "usage")

    def __init__(
        self,
        usage: str,
        summary: str,
        run: Callable[[Invocation], int],
        *,
        flags: Sequence[Flag] = (),
        minimum: int = 0,
        maximum: int = MANY,
        interspersed: bool = True,
        raw: bool = False,
    ) -> None:
        self.usage = usage
        self.summary = summary
        self.run = run
        self.flags = flags
        self.minimum = minimum
        self.maximum = maximum
        self.interspersed = interspersed
        self.raw = raw


class Invocation:
    """A command line taken apart: ``arguments``, and flag values by name through typed readers."""

    __slots__ = ("arguments", "command", "given", "path", "program", "values")

    def __init__(self, command: Command, path: str, program: Program) -> None:
        self.command = command
        self.path = path
        self.program = program
        self.arguments: list[str] = []
        self.values: dict[str, Any] = {}
        self.given: set[str] = set()

    def flag(self, name: str) -> bool:
        return bool(self.values[name])

    def text(self, name: str) -> str:
        return self.values[name] or ""

    def number(self, name: str) -> int:
        return self.values[name] or 0

    def texts(self, name: str) -> list[str]:
        """All values of a repeatable flag, in order."""
        return list(self.values[name])

    def value(self, name: str) -> Any:
        """Whatever the flag's own ``parse`` made."""
        return self.values[name]


def parse(command: Command, path: str, program: Program, words: Sequence[str]) -> Invocation:
    """Take ``words`` apart.  Raises UsageFailure, HelpWanted."""
    found = Invocation(command, path, program)
    if command.raw:
        found.arguments = list(words)
        return found
    found.values = {flag.name: flag.default for flag in command.flags if not flag.alias_of}
    found.arguments = parse_flags(command.flags, words, found.values, found.given, interspersed=command.interspersed)
    count = len(found.arguments)
    if not command.minimum <= count <= command.maximum:
        raise UsageFailure(f"'wherry {path}' {_arity(command)}", 1, prefixed=True)
    return found


def parse_flags(flags: Sequence[Flag], words: Sequence[str], values: dict[str, Any], given: set[str], *, interspersed: bool) -> list[str]:
    """Set ``values`` and ``given`` from the flags among ``words``; return the other words."""
    long = {flag.name: flag for flag in flags}
    short = {flag.shorthand: flag for flag in flags if flag.shorthand}
    arguments: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if not interspersed:
                arguments += words[position:]
                break
        elif word == "--":
            arguments += words[position:]
            break
        elif word[1] == "-":
            position = _long(word, words, position, long, values, given)
        else:
            position = _cluster(word, words, position, short, values, given)
    return arguments


def _long(word: str, words: Sequence[str], position: int, flags: dict[str, Flag], values: dict[str, Any], given: set[str]) -> int:
    name, equals, text = word[2:].partition("=")
    if not name or name[0] == "-":
        raise UsageFailure(f"bad flag syntax: {word}")
    flag = flags.get(name)
    if flag is None:
        if name == "help":
            raise HelpWanted
        raise UsageFailure(f"unknown flag: --{name}")
    if not equals:
        if flag.kind == "bool":
            text = "true"
        elif position < len(words):
            text = words[position]
            position += 1
        else:
            raise UsageFailure(f"flag needs an argument: --{name}")
    _set(flag, flags, text, values, given)
    return position


def _cluster(word: str, words: Sequence[str], position: int, flags: dict[str, Flag], values: dict[str, Any], given: set[str]) -> int:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = flags.get(letter)
        if flag is None:
            if letter == "h":
                raise HelpWanted(deprecated=True)
            raise UsageFailure(f"unknown shorthand flag: {letter!r} in -{letter}{letters}")
        if letters.startswith("=") and len(letters) > 1:
            text, letters = letters[1:], ""
        elif flag.kind == "bool":
            text = "true"
        elif letters:
            text, letters = letters, ""
        elif position < len(words):
            text = words[position]
            position += 1
        else:
            raise UsageFailure(f"flag needs an argument: {letter!r} in {word}")
        _set(flag, flags, text, values, given)
    return position


def _set(flag: Flag, flags: dict[str, Flag], text: str, values: dict[str, Any], given: set[str]) -> None:
    value: object = text
    if flag.parse is not None:
        try:
            value = flag.parse(text)
        except ValueError as error:
            from wherry.cli.template_tokens import quote

            raise UsageFailure(f'invalid argument {quote(text)} for "{flag.spelled()}" flag: {error}') from None
    if flag.refused and value != flag.default:
        raise Failure(f"wherry: --{flag.name} is not supported: {flag.refused}", 125)
    name = flag.alias_of or flag.name
    if flag.single:
        values[name] = value
    else:
        values[name] = (*values[name], value) if name in given else (value,)
    given.add(name)


def _arity(command: Command) -> str:
    low, high = command.minimum, command.maximum
    if high == 0:
        return "accepts no arguments"
    if low == high:
        return f"requires {low} argument{'s' if low > 1 else ''}"
    if high == MANY:
        return f"requires at least {low} argument{'s' if low > 1 else ''}"
    if low == 0:
        return f"requires at most {high} argument{'s' if high > 1 else ''}"
    return f"requires at least {low} and at most {high} arguments"


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Go's strconv.ParseInt with base 0 and 64 bits."""
    return _integer(text, "ParseInt", -(1 << 63), (1 << 63) - 1)


def parse_uint16(text: str) -> int:
    return _integer(text, "ParseUint", 0, (1 << 16) - 1)


def _integer(text: str, function: str, low: int, high: int) -> int:
    digits = text.lstrip("+-")
    try:
        if text.strip() != text or (low == 0 and text[:1] in "+-") or not text.isascii():
            raise ValueError
        value = int(text, 8) if len(digits) > 1 and digits[0] == "0" and digits.isdecimal() else int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax') from None
    if not low <= value <= high:
        raise ValueError(f'strconv.{function}: parsing "{text}": value out of range')
    return value


def parse_bytes(text: str) -> int:
    """A size with an optional binary unit (``512m``, ``1.5GiB``), as Docker's ``units.RAMInBytes``."""
    end = max((text.rfind(character) for character in "0123456789. "), default=-1)
    if end < 0:
        raise ValueError(f"invalid size: '{text}'")
    digits, unit = text[:end] if text[end] == " " else text[: end + 1], text[end + 1 :]
    try:
        if digits.strip() != digits or "_" in digits:
            raise ValueError
        number = int(digits) if digits.isdecimal() else float(digits)
        if number < 0 or number > 1 << 63:
            raise ValueError(f"invalid size: '{text}'")
    except ValueError as error:
        raise ValueError(str(error) if "size" in str(error) else f'strconv.ParseFloat: parsing "{digits}": invalid syntax') from None
    rest = unit.lower()
    if rest and not (rest == "b" or (rest[0] in "kmgtpe" and rest[1:] in ("", "b", "ib"))):
        raise ValueError(f"invalid suffix: '{unit if len(unit) > 3 else rest}'")
    return int(number * 1024 ** ("bkmgtpe".index(rest[0]) if rest else 0))


def parse_swap(text: str) -> int:
    """A size, or -1 for no limit."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_cpus(text: str) -> int:
    """A rational number of CPUs (``1.5``, ``3/2``, ``15e-1``) as billionths; the daemon refuses a negative one."""
    number, slash, divisor = text.partition("/")
    mantissa, letter, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").removeprefix("+").partition(".")
    powers = exponent.removeprefix("-").removeprefix("+")
    digits = whole + fraction + (powers if letter else "") + (divisor if slash else "")
    wrong = (letter and not 0 < len(powers) < 5) or (slash and not divisor.strip("0"))
    if not digits.isdecimal() or not text.isascii() or not whole + fraction or wrong:
        raise ValueError(f"failed to parse {text} as a rational number")
    shift = 9 + int(exponent or 0) - len(fraction)
    above, below = int(whole + fraction) * 10 ** max(shift, 0), int(divisor or 1) * 10 ** max(-shift, 0)
    if above % below:
        raise ValueError("value is too precise")
    billionths: int = above // below
    return -billionths if text.startswith("-") else billionths


def parse_filter(text: str) -> str:
    """``key=value``, kept as a word; ``filters`` joins them."""
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    return text


def filters(words: Sequence[str]) -> dict[str, dict[str, bool]]:
    """``--filter`` values as the API takes them: key to a set of values."""
    found: dict[str, dict[str, bool]] = {}
    for word in words:
        key, _, value = word.partition("=")
        found.setdefault(key.strip().lower(), {})[value.strip()] = True
    return found


_SINGLE = frozenset(("bool", "string", "int", "uint16", "bytes", "decimal", "duration"))
_ZERO: dict[str, object] = {"bool": False, "string": "", "int": 0, "uint16": 0, "bytes": 0, "decimal": 0, "duration": 0}
_PARSERS: dict[str, Callable[[str], object]] = {
    "bool": parse_bool,
    "int": parse_int,
    "uint16": parse_uint16,
    "bytes": parse_bytes,
    "decimal": parse_cpus,
    "duration": parse_duration,
    "filter": parse_filter,
}
