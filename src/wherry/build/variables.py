"""Variables in a Dockerfile's words: ``$v``, ``${v:-w}`` and the rest, quotes and escapes, as BuildKit's shell lexer reads them.

Pure: text and a mapping in, text out. Patterns (``${v#p}``, ``${v/p/r}``) are matched in time linear in text times pattern, without
``re``; nesting, lengths and comparisons are capped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_SPECIAL = frozenset("@*#?-$!0")
_MAX_DEPTH = 64
_MAX_REPLACED = 2048
_MAX_RESULT = 1 << 20  # characters of one word: forty lines that double a variable would else fill the memory
_MAX_RESULTS = 1 << 23  # of all words of one instruction
_MAX_COMPARISONS = 1 << 22  # of characters with a pattern's, some tenths of a second


class ExpansionError(ValueError):
    """A word that can't be expanded; the message is BuildKit's."""


@dataclass(slots=True)
class Use:
    """Which names an expansion looked at, and which of them had no value; how long all results are."""

    used: set[str] = field(default_factory=set)
    unset: list[str] = field(default_factory=list)
    length: int = 0


def expand(word: str, values: Mapping[str, str], *, escape: str = "\\", use: Use | None = None) -> str:
    """``word`` with quotes removed and variables replaced.  Raises ExpansionError."""
    use = use if use is not None else Use()
    return _guard(word, _Lexer(word, values, escape, use).words, use)[0]


def expand_words(word: str, values: Mapping[str, str], *, escape: str = "\\", use: Use | None = None) -> list[str]:
    """Like ``expand``, but blanks outside quotes (also those that came out of a variable) part the result into words."""
    use = use if use is not None else Use()
    return _guard(word, _Lexer(word, values, escape, use).words, use)[1]


def expand_text(text: str, values: Mapping[str, str], *, escape: str = "\\") -> str:
    """A heredoc's body with variables replaced; quotes stand for themselves and an escape only counts before ``$`` and itself."""
    use = Use()
    return _guard(text, _Lexer(text, values, escape, use, raw_quotes=True).words, use)[0]


def _guard(word: str, run: object, use: Use) -> tuple[str, list[str]]:
    assert callable(run)
    try:
        text, words = run()
        use.length += len(text)
        if use.length > _MAX_RESULTS:
            raise ExpansionError(f"the instruction's words are longer than {_MAX_RESULTS} characters")
    except ExpansionError as error:
        raise ExpansionError(f"failed to process {go_quote(word)}: {error}") from None
    return text, words


def go_quote(text: str) -> str:
    """``text`` as Go's ``%q`` prints it."""
    out = ['"']
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character in "\n\t\r\a\b\f\v":
            out.append({"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}[character])
        elif character.isprintable():
            out.append(character)
        elif ord(character) < 0x80:
            out.append(f"\\x{ord(character):02x}")
        else:
            out.append(f"\\u{ord(character):04x}")
    return "".join(out) + '"'


class _Lexer:
    """One pass over a word; keeps the whole result and, beside it, the result parted at blanks.

    ``keeps_escapes``: an escape stays before what it escapes, as BuildKit has it in what replaces a pattern.
    """

    keeps_escapes = False

    def __init__(self, text: str, values: Mapping[str, str], escape: str, use: Use, *, raw_quotes: bool = False, depth: int = 0) -> None:
        self.text, self.at, self.values, self.escape, self.use, self.raw, self.depth = text, 0, values, escape, use, raw_quotes, depth

    def words(self) -> tuple[str, list[str]]:
        parts = _Words(_MAX_RESULTS if self.raw else _MAX_RESULT)
        self._until("", parts)
        return parts.finish()

    def _until(self, stops: str, parts: _Words) -> None:
        """Read up to one of ``stops`` (left unread) or the end."""
        text, end = self.text, len(self.text)
        while self.at < end:
            character = text[self.at]
            if character in stops:
                return
            if character == "'" and not self.raw:
                self._single(parts)
            elif character == '"' and not self.raw:
                self._double(parts)
            elif character == "$":
                self._dollar(parts, quoted=self.raw)
            elif character == self.escape:
                self._escaped(parts)
            else:
                self.at += 1
                parts.plain(character)

    def _escaped(self, parts: _Words) -> None:
        self.at += 1
        if self.at >= len(self.text):
            if self.raw:
                parts.literal(self.escape)
            return
        character = self.text[self.at]
        self.at += 1
        if self.keeps_escapes or (self.raw and character not in ("$", self.escape)):
            parts.literal(self.escape)
        parts.literal(character)

    def _single(self, parts: _Words) -> None:
        close = self.text.find("'", self.at + 1)
        if close < 0:
            raise ExpansionError("unexpected end of statement while looking for matching single-quote")
        parts.literal(self.text[self.at + 1 : close])
        self.at = close + 1

    def _double(self, parts: _Words) -> None:
        text, end = self.text, len(self.text)
        self.at += 1
        parts.literal("")
        while self.at < end:
            character = text[self.at]
            if character == '"':
                self.at += 1
                return
            if character == "$":
                self._dollar(parts, quoted=True)
            elif character == self.escape:
                following = text[self.at + 1 : self.at + 2]
                if not following:
                    break
                bare = following in ('"', "$", self.escape) and not self.keeps_escapes
                parts.literal(following if bare else character + following)
                self.at += 2
            else:
                parts.literal(character)
                self.at += 1
        raise ExpansionError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self, parts: _Words, *, quoted: bool) -> None:
        self.at += 1
        rest = self.text[self.at : self.at + 1]
        if rest == "{":
            self.at += 1
            value = self._braced()
        else:
            name = self._name()
            if not name:
                parts.literal("$")
                return
            value = self._value(name) or ""
        (parts.literal if quoted else parts.plain)(value)

    def _name(self) -> str:
        text, start = self.text, self.at
        if start < len(text) and text[start] in _SPECIAL:
            self.at += 1
            return text[start]
        if start < len(text) and text[start].isascii() and text[start].isdigit():
            while self.at < len(text) and text[self.at].isascii() and text[self.at].isdigit():
                self.at += 1
            return text[start : self.at]
        while self.at < len(text) and (text[self.at] == "_" or (text[self.at].isascii() and text[self.at].isalnum())):
            self.at += 1
        return text[start : self.at]

    def _value(self, name: str) -> str | None:
        self.use.used.add(name)
        value = self.values.get(name)
        if value is None and name not in _SPECIAL and not name.isdigit():
            self.use.unset.append(name)
        return value

    def _quiet(self, name: str) -> str | None:
        self.use.used.add(name)
        return self.values.get(name)

    def _braced(self) -> str:
        """After ``${``: the name, an operator and its words, and the closing brace."""
        if self.text[self.at : self.at + 1] in ("}", ":"):
            raise ExpansionError("syntax error: bad substitution")
        name = self._name()
        character = self.text[self.at : self.at + 1]
        self.at += 1
        if character == "}":
            return self._value(name) or ""
        if character == ":" or character in ("-", "+", "?"):
            return self._conditional(name, character)
        if character in ("#", "%"):
            return self._trimmed(name, character)
        if character == "/":
            return self._replaced(name)
        raise ExpansionError(f"unsupported modifier ({character or chr(0xFFFD)}) in substitution")

    def _conditional(self, name: str, operator: str) -> str:
        colon = operator == ":"
        if colon:
            operator = self.text[self.at : self.at + 1]
            self.at += 1
        if operator == "}":
            raise ExpansionError("syntax error: missing '}'")
        if operator not in ("-", "+", "?") or not operator:
            raise ExpansionError(f"unsupported modifier (:{operator or chr(0xFFFD)}) in substitution")
        word = self._operand("}")
        self._close("}")
        value = self._quiet(name)
        missing = value is None or (colon and value == "")
        if operator == "-":
            return word if missing else value or ""
        if operator == "+":
            return "" if missing else word
        if missing:
            default = "is not allowed to be empty" if colon and value is not None else "is not allowed to be unset"
            raise ExpansionError(f"{name}: {word or default}")
        return value or ""

    def _trimmed(self, name: str, operator: str) -> str:
        greedy = self.text[self.at : self.at + 1] == operator
        self.at += greedy
        pattern = self._pattern("}")
        self._close("}")
        value = self._value(name) or ""
        if operator == "#":
            return _trim_front(value, pattern, greedy=greedy)
        return _trim_front(value[::-1], pattern[::-1], greedy=greedy)[::-1]

    def _replaced(self, name: str) -> str:
        everywhere = self.text[self.at : self.at + 1] == "/"
        self.at += everywhere
        pattern = self._pattern("/}")
        if self.text[self.at : self.at + 1] != "/":
            raise ExpansionError("syntax error: missing '/' in ${}")
        self.at += 1
        replacement = self._operand("}", keeps_escapes=True)
        self._close("}")
        return _replace(self._value(name) or "", pattern, replacement, everywhere=everywhere)

    def _nested(self) -> _Lexer:
        if self.depth >= _MAX_DEPTH:
            raise ExpansionError("variables are nested too deeply")
        lexer = _Lexer(self.text, self.values, self.escape, self.use, raw_quotes=self.raw, depth=self.depth + 1)
        lexer.at = self.at
        return lexer

    def _operand(self, stops: str, *, keeps_escapes: bool = False) -> str:
        lexer, parts = self._nested(), _Words()
        lexer.keeps_escapes = keeps_escapes
        lexer._until(stops, parts)
        self.at = lexer.at
        return parts.finish()[0]

    def _pattern(self, stops: str) -> list[_Piece]:
        """Up to one of ``stops``: ``*`` and ``?`` are wild unless escaped, quoted ones and those out of variables too."""
        pieces: list[_Piece] = []
        while self.at < len(self.text) and self.text[self.at] not in stops:
            character = self.text[self.at]
            if character == self.escape and self.at + 1 < len(self.text):
                pieces.append(_Piece(self.text[self.at + 1]))
                self.at += 2
            elif character in ("'", '"', "$") and not (self.raw and character != "$"):
                lexer, parts = self._nested(), _Words()
                if character == "$":
                    lexer._dollar(parts, quoted=True)
                elif character == "'":
                    lexer._single(parts)
                else:
                    lexer._double(parts)
                self.at = lexer.at
                pieces.extend(map(_piece, parts.finish()[0]))
            else:
                pieces.append(_piece(character))
                self.at += 1
        return pieces

    def _close(self, brace: str) -> None:
        if self.text[self.at : self.at + 1] != brace:
            raise ExpansionError(f"syntax error: missing '{brace}'")
        self.at += 1


class _Words:
    """Collects characters into the whole text and into blank-separated words."""

    __slots__ = ("_left", "_open", "_text", "_word", "_words")

    def __init__(self, limit: int = _MAX_RESULT) -> None:
        self._left = limit
        self._text: list[str] = []
        self._word: list[str] = []
        self._words: list[str] = []
        self._open = False

    def plain(self, text: str) -> None:
        self._take(text)
        words = text.split()
        if text[:1].isspace():
            self._end()
        for number, word in enumerate(words):
            if number:
                self._end()
            self._word.append(word)
            self._open = True
        if text[-1:].isspace():
            self._end()

    def literal(self, text: str) -> None:
        self._take(text)
        self._word.append(text)
        self._open = True

    def _take(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise ExpansionError("the result is too long")
        self._text.append(text)

    def _end(self) -> None:
        if self._open:
            self._words.append("".join(self._word))
            self._word, self._open = [], False

    def finish(self) -> tuple[str, list[str]]:
        self._end()
        return "".join(self._text), self._words


@dataclass(frozen=True, slots=True)
class _Piece:
    """One character of a pattern; ``wild`` is ``*`` or ``?`` for a wildcard."""

    character: str
    wild: str = ""


def _piece(character: str) -> _Piece:
    return _Piece(character, character if character in "*?" else "")


def _prefixes(text: str, pattern: list[_Piece]) -> list[bool]:
    """Which prefixes of ``text`` the pattern matches whole, by length."""
    reach = [True] + [False] * len(text)
    for piece in pattern:
        following = [False] * (len(text) + 1)
        if piece.wild == "*":
            seen = False
            for index, here in enumerate(reach):
                seen = seen or here
                following[index] = seen
        else:
            for index, character in enumerate(text):
                following[index + 1] = reach[index] and (piece.wild == "?" or piece.character == character)
        reach = following
    return reach


def _trim_front(text: str, pattern: list[_Piece], *, greedy: bool) -> str:
    _check_effort(len(text) * len(pattern))
    lengths = [length for length, matched in enumerate(_prefixes(text, pattern)) if matched]
    if not lengths:
        return text
    return text[lengths[-1] if greedy else lengths[0] :]


def _check_effort(comparisons: int) -> None:
    if comparisons > _MAX_COMPARISONS:
        raise ExpansionError("the pattern is too long for a value of this length")


def _replace(text: str, pattern: list[_Piece], replacement: str, *, everywhere: bool) -> str:
    """Replace the first (or each) longest match; an empty pattern, which only ``${v///r}`` can have, is between all characters."""
    if not pattern:
        return replacement + "".join(character + replacement for character in text)
    if len(text) > _MAX_REPLACED:
        raise ExpansionError(f"can't replace in a value of more than {_MAX_REPLACED} characters")
    _check_effort(len(text) ** 2 // 2 * len(pattern))
    out: list[str] = []
    at = 0
    while at < len(text):
        lengths = [length for length, matched in enumerate(_prefixes(text[at:], pattern)) if matched and length]
        if not lengths:
            out.append(text[at])
            at += 1
            continue
        out.append(replacement)
        at += lengths[-1]
        if not everywhere:
            break
    return "".join(out) + text[at:]
