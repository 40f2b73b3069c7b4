"""A Dockerfile's bytes become logical lines: directives, comments, continuations, flags, heredocs.

Knows how lines are put together and nothing of what an instruction means (``instructions.py``).
Source: BuildKit's Dockerfile frontend (1.26), whose words the errors use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from wherry.build.failures import DockerfileError, parse_error, syntax_error
from wherry.build.variables import ExpansionError, expand

_SIZE_LIMIT = 4 << 20
_HEREDOC_WORD = re.compile(r"(\d*)<<(-?)([^<]*)")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_BLANK = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A document inside the Dockerfile: ``<<EOF`` with its body.  ``expand``: its name was not quoted; ``fd``: the number before it."""

    name: str
    body: str
    expand: bool
    fd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One instruction as written: upper-case ``name``, ``flags`` without quotes, ``rest`` after them, ``text`` whole."""

    name: str
    keyword: str
    flags: tuple[str, ...]
    rest: str
    text: str
    first: int
    last: int
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()  # the comment lines right above, without '#'

    @property
    def lines(self) -> tuple[int, int]:
        return self.first, self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole Dockerfile.  ``empty_continuations``: the lines whose continuation runs over blank lines."""

    lines: tuple[Line, ...]
    escape: str
    directives: dict[str, str]
    empty_continuations: tuple[tuple[int, int], ...]
    source: str


def parse(data: bytes) -> Document:
    """Read a Dockerfile.  Raises DockerfileError."""
    if len(data) > _SIZE_LIMIT:
        raise DockerfileError(f"the Dockerfile is larger than {_SIZE_LIMIT} bytes")
    source = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    return _Reader(source).document()


def words(rest: str, escape: str = "\\") -> list[str]:
    """Part at blanks outside quotes and escapes; quotes and escapes stay for the expansion to come."""
    found: list[str] = []
    word: list[str] = []
    quote = ""
    index = 0
    while index < len(rest):
        character = rest[index]
        if not quote and character.isspace():
            if word:
                found.append("".join(word))
                word = []
        elif character == escape and quote != "'":
            word.append(rest[index : index + 2])
            index += 1
        else:
            if character in "'\"":
                quote = "" if quote == character else quote or character
            word.append(character)
        index += 1
    if word:
        found.append("".join(word))
    return found


def json_strings(rest: str) -> list[str] | None:
    """The exec form: a JSON array of strings, or None when ``rest`` is no array (then it is the shell form).

    Raises DockerfileError for an array of other things.
    """
    if not rest.lstrip().startswith("["):
        return None
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(item, str) for item in value):
        raise DockerfileError("failed to parse Dockerfile: when using JSON array syntax, arrays must be comprised of strings only")
    return value


def parse_line(text: str, escape: str, first: int, last: int) -> Line:
    """One instruction from its logical line (also an ONBUILD trigger's text)."""
    parts = _BLANK.split(text.strip(), maxsplit=1)
    keyword, rest = parts[0], parts[1].strip() if len(parts) > 1 else ""
    flags, rest = _flags(rest, escape)
    return Line(name=keyword.upper(), keyword=keyword, flags=tuple(flags), rest=rest, text=text, first=first, last=last)


def _flags(rest: str, escape: str) -> tuple[list[str], str]:
    """The leading words that start with ``--``, without their quotes, and what follows; ``--`` alone ends them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(rest) and rest[at].isspace():
            at += 1
        if not rest.startswith("--", at):
            return flags, rest[at:]
        start, out, quote = at, [], ""
        while at < len(rest):
            character = rest[at]
            if character == escape and at + 1 < len(rest):
                out.append(rest[at + 1])
                at += 2
                continue
            if not quote and character.isspace():
                break
            if character in "'\"" and quote in ("", character):
                quote = "" if quote else character
            else:
                out.append(character)
            at += 1
        flag = "".join(out)
        if flag == "--":
            return flags, rest[at:].lstrip()
        if at == start:
            return flags, rest[at:]
        flags.append(flag)


class _Reader:
    """Walks the physical lines once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.physical = source.split("\n")
        if self.physical[-1] == "":
            self.physical.pop()
        self.at = 0
        self.escape = "\\"
        self.directives: dict[str, str] = {}
        self.holes: list[tuple[int, int]] = []
        self.comments: list[str] = []

    def document(self) -> Document:
        self._read_directives()
        lines: list[Line] = []
        while self.at < len(self.physical):
            line = self._logical()
            if line is not None:
                lines.append(line)
        if not lines:
            raise syntax_error((1, max(1, len(self.physical))), "file with no instructions")
        return Document(
            lines=tuple(lines),
            escape=self.escape,
            directives=self.directives,
            empty_continuations=tuple(self.holes),
            source=self.source,
        )

    def _read_directives(self) -> None:
        for number, line in enumerate(self.physical, 1):
            if number == 1 and line.startswith("#!"):
                continue
            match = _DIRECTIVE.fullmatch(line.strip())
            if match is None or match[1].lower() not in _DIRECTIVES:
                return
            name, value = match[1].lower(), match[2]
            if name in self.directives:
                raise syntax_error((1, number), f"only one {name} parser directive can be used")
            if name == "escape":
                if value not in ("\\", "`"):
                    raise syntax_error((number, number), f"invalid escape token '{value}' does not match ` or \\")
                self.escape = value
            self.directives[name] = value

    def _logical(self) -> Line | None:
        """The next instruction, or None after a blank or comment line."""
        first = self.at + 1
        text = self.physical[self.at].lstrip()
        self.at += 1
        if text.startswith("#"):
            self.comments.append(text[1:].strip())
            return None
        if not text.strip():
            self.comments.clear()
            return None
        text, goes_on = self._continued(text.removesuffix("\r"))
        hole = False
        while goes_on and self.at < len(self.physical):
            following = self.physical[self.at].removesuffix("\r")
            self.at += 1
            if following.lstrip().startswith("#"):
                continue
            if not following.strip():
                hole = True
                continue
            more, goes_on = self._continued(following)
            text += more
        if hole:
            self.holes.append((first, self.at))
        if not text.strip():
            return None
        line = replace(parse_line(text, self.escape, first, self.at), comments=tuple(self.comments))
        self.comments.clear()
        return self._with_heredocs(line)

    def _continued(self, text: str) -> tuple[str, bool]:
        """Without the escape that ends it, and whether there was one.  A doubled escape does not continue."""
        bare = text.rstrip(" \t")
        if bare.endswith(self.escape) and not bare.endswith(self.escape * 2):
            return bare[:-1], True
        return text, False

    def _with_heredocs(self, line: Line) -> Line:
        inner = line
        while inner.name == "ONBUILD":
            inner = parse_line(inner.rest, self.escape, line.first, line.last)
        if inner.name not in _WITH_HEREDOCS or "<<" not in inner.rest or json_strings(inner.rest) is not None:
            return line
        heredocs: list[Heredoc] = []
        for word in words(inner.rest, self.escape):
            head = heredoc_word(word, self.escape)
            if head is not None:
                fd, chomp, name, expands = head
                heredocs.append(Heredoc(name=name, body=self._body(line, name, chomp=chomp), expand=expands, fd=fd))
        return replace(line, heredocs=tuple(heredocs), last=self.at)

    def _body(self, line: Line, name: str, *, chomp: bool) -> str:
        body: list[str] = []
        while self.at < len(self.physical):
            text = self.physical[self.at]
            self.at += 1
            if chomp:
                text = text.lstrip("\t")
            if text.removesuffix("\r") == name:
                return "".join(body)
            body.append(text + "\n")
        raise syntax_error((line.first, self.at), "unterminated heredoc")


def heredoc_word(word: str, escape: str = "\\") -> tuple[int, bool, str, bool] | None:
    """Read ``<<EOF``: (descriptor, tabs stripped, delimiter, body expands), or None for any other word."""
    match = _HEREDOC_WORD.fullmatch(word)
    if match is None or not match[3]:
        return None
    try:
        name = expand(match[3], {}, escape=escape) if "$" not in match[3] else match[3]
    except ExpansionError:
        return None
    if not name or (any(character.isspace() for character in match[3]) and name == match[3]):
        return None
    return int(match[1] or 0), bool(match[2]), name, name == match[3]


def unknown_instruction(line: Line, suggestion: str) -> DockerfileError:
    """The error for a word that starts no instruction, with a hint for `//`, which is no comment here."""
    hint = " (a comment starts with '#', not with '//')" if line.keyword.startswith("//") else suggestion
    return parse_error(line.first, line.last, f"unknown instruction: {line.keyword}{hint}")
