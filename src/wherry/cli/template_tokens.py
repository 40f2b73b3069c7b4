"""The tokens of Go's text/template: text in, tokens out, and what a token of a literal means.  Source: Go text/template/parse."""

from __future__ import annotations

_SPACE = " \t\r\n"
_KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"))


class SyntaxFault(Exception):
    """The template cannot be parsed; ``str()`` is Go's message, ``template: :1: ...``."""


class Token:
    __slots__ = ("kind", "pos", "text")

    def __init__(self, kind: str, text: str, pos: int) -> None:
        self.kind = kind  # text left right space | ( ) := = , string char number bool field dot variable identifier keyword eof
        self.text = text
        self.pos = pos

    def __str__(self) -> str:
        if self.kind == "eof":
            return "EOF"
        if self.kind in ("keyword", "dot"):
            return f"<{self.text}>"
        return quote(self.text[:10]) + "..." if len(self.text) > 10 else quote(self.text)


def quote(text: str) -> str:
    """``text`` as a Go string literal."""
    out = ['"']
    for char in text:
        out.append(_ESCAPES.get(char) or (char if char.isprintable() else _numeric_escape(ord(char))))
    out.append('"')
    return "".join(out)


_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def _numeric_escape(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def fault(text: str, pos: int, message: str) -> SyntaxFault:
    line = 1 + text.count("\n", 0, pos)
    return SyntaxFault(f"template: :{line}: {message}")


def tokenize(text: str) -> list[Token]:
    """All tokens; a lexical fault is the last token, so that an earlier fault of the grammar is told first."""
    out: list[Token] = []
    try:
        _read_tokens(text, out)
    except SyntaxFault as fault:
        out.append(Token("fault", str(fault), len(text)))
    return out


def _read_tokens(text: str, out: list[Token]) -> None:
    at = 0
    trim = False
    while True:
        start = text.find("{{", at)
        end = len(text) if start < 0 else start
        piece = text[at:end]
        if trim:
            kept = piece.lstrip(_SPACE)
            at += len(piece) - len(kept)
            piece = kept
        opened = start + 2
        if start >= 0 and text[opened : opened + 1] == "-" and text[opened + 1 : opened + 2] in tuple(_SPACE):
            piece = piece.rstrip(_SPACE)
            opened += 1
        if piece:
            out.append(Token("text", piece, at))
        if start < 0:
            out.append(Token("eof", "", len(text)))
            return
        body = opened + 1 if opened > start + 2 else opened
        if text.startswith("/*", body):
            at, trim = _comment(text, body)
        else:
            out.append(Token("left", "{{", start))
            at, trim = _action(text, opened, out)


def _comment(text: str, start: int) -> tuple[int, bool]:
    end = text.find("*/", start + 2)
    if end < 0:
        raise fault(text, start, "unclosed comment")
    end += 2
    if text.startswith("}}", end):
        return end + 2, False
    if text[end : end + 1] in tuple(_SPACE) and text.startswith("-}}", end + 1):
        return end + 4, True
    raise fault(text, start, "comment ends before closing delimiter")


_PUNCTUATION = {"|": "|", "=": "=", ",": ",", "(": "(", ")": ")"}


def _action(text: str, at: int, out: list[Token]) -> tuple[int, bool]:
    """Read tokens up to the closing braces; returns where text goes on, and whether its leading space is trimmed."""
    depth = 0
    size = len(text)
    while True:
        if text.startswith("}}", at):
            if depth:
                raise fault(text, at, "unclosed left paren")
            out.append(Token("right", "}}", at))
            return at + 2, False
        if at >= size:
            raise fault(text, at, "unclosed action")
        char = text[at]
        start = at
        if char in _SPACE:
            while at < size and text[at] in _SPACE:
                at += 1
            if text.startswith("-}}", at):
                if depth:
                    raise fault(text, at, "unclosed left paren")
                out.append(Token("right", "-}}", at))
                return at + 3, True
            out.append(Token("space", text[start:at], start))
            continue
        if char == ":":
            if not text.startswith(":=", at):
                raise fault(text, at, "expected :=")
            at += 2
            out.append(Token(":=", ":=", start))
        elif char in _PUNCTUATION:
            depth += (char == "(") - (char == ")")
            if depth < 0:
                raise fault(text, at, "unexpected right paren")
            at += 1
            out.append(Token(_PUNCTUATION[char], char, start))
        elif char in "\"'":
            at = _quoted(text, at, char)
            out.append(Token("string" if char == '"' else "char", text[start:at], start))
        elif char == "`":
            at = text.find("`", at + 1) + 1
            if not at:
                raise fault(text, start, "unterminated raw quoted string")
            out.append(Token("string", text[start:at], start))
        elif char == "$" or (char == "." and not text[at + 1 : at + 2].isdigit()):
            at = _word_end(text, at + 1)
            _check_end(text, at, "field" if char == "." else "variable")
            out.append(Token(("variable" if char == "$" else "field" if at > start + 1 else "dot"), text[start:at], start))
        elif char.isdigit() or char in "+-.":
            at = _number_end(text, at)
            out.append(Token("number", text[start:at], start))
        elif char == "_" or char.isalpha():
            at = _word_end(text, at)
            _check_end(text, at, "identifier")
            word = text[start:at]
            out.append(Token("keyword" if word in _KEYWORDS else "bool" if word in ("true", "false") else "identifier", word, start))
        elif char.isascii() and char.isprintable():
            at += 1
            out.append(Token("other", char, start))
        else:
            raise fault(text, at, f"unrecognized character in action: U+{ord(char):04X}" + (f" '{char}'" if char.isprintable() else ""))


def _quoted(text: str, at: int, mark: str) -> int:
    kind = "quoted string" if mark == '"' else "character constant"
    start = at
    at += 1
    while at < len(text) and text[at] != "\n":
        if text[at] == mark:
            return at + 1
        at += 2 if text[at] == "\\" else 1
    raise fault(text, start, f"unterminated {kind}")


def _word_end(text: str, at: int) -> int:
    while at < len(text) and (text[at] == "_" or text[at].isalnum()):
        at += 1
    return at


def _check_end(text: str, at: int, what: str) -> None:
    if at < len(text) and text[at] not in " \t\r\n.,|:)(=" and not text.startswith("}}", at):
        char = text[at]
        raise fault(text, at, f"bad character U+{ord(char):04X}" + (f" '{char}'" if char.isprintable() else ""))


def _number_end(text: str, at: int) -> int:
    start = at
    if text[at] in "+-":
        at += 1
    while at < len(text) and (text[at].isalnum() or text[at] in "._" or (text[at] in "+-" and text[at - 1] in "eEpP")):
        at += 1
    if not any(char.isdigit() for char in text[start:at]):
        raise fault(text, start, f"bad number syntax: {quote(text[start : at or 1])}")
    return at


def number_of(template: str, token: Token) -> int | float:
    """What a number or a character stands for.  Raises SyntaxFault."""
    text = token.text
    if token.kind == "char":
        value = _unescape(template, token, text[1:-1])
        if len(value) != 1:
            raise fault(template, token.pos, f"malformed character constant: {text}")
        return ord(value)
    try:
        return int(text.replace("_", ""), 8) if text.lstrip("+-")[1:2].isdigit() and text.lstrip("+-")[0] == "0" else int(text, 0)
    except ValueError:
        pass
    try:
        return float.fromhex(text) if text.lstrip("+-")[:2].lower() == "0x" else float(text)
    except (ValueError, OverflowError):
        raise fault(template, token.pos, f"bad number syntax: {quote(text)}") from None


def string_of(template: str, token: Token) -> str:
    """What a string in either kind of quotes stands for.  Raises SyntaxFault."""
    return token.text[1:-1] if token.text[0] == "`" else _unescape(template, token, token.text[1:-1])


def _unescape(template: str, token: Token, text: str) -> str:
    if "\\" not in text:
        return text
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode("utf-8", "surrogatepass")
            at += 1
            continue
        mark = text[at + 1 : at + 2]
        size, base = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}.get(mark, (3, 8))
        if mark and mark in _SIMPLE:
            out += _SIMPLE[mark]
            at += 2
            continue
        start = at + 1 if base == 8 else at + 2
        try:
            digits = text[start : start + size]
            if len(digits) != size or not digits.isalnum():
                raise ValueError(digits)
            code = int(digits, base)
            out += chr(code).encode() if mark in ("u", "U") else bytes((code,))
        except (ValueError, OverflowError):
            raise fault(template, token.pos, f"invalid syntax in string {token.text}") from None
        at = start + size
    return out.decode("utf-8", "replace")


_SIMPLE = {
    "a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v", "\\": b"\\", '"': b'"', "'": b"'",
}  # fmt: skip
