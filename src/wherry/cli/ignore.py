"""``.dockerignore``: which paths of a build context are left out.

The last pattern that matches decides; a pattern that matches a directory matches what is below it.  Source: moby/patternmatcher.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Sequence


class IgnoreFault(ValueError):
    """A pattern that cannot be read."""


class Pattern:
    __slots__ = ("clean", "exception", "regexp")

    def __init__(self, clean: str, regexp: re.Pattern[str], *, exception: bool) -> None:
        self.clean = clean
        self.regexp = regexp
        self.exception = exception


class Ignore:
    """The patterns of one file, in order."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = [_pattern(text) for text in patterns]
        self._exceptions = [pattern.clean + "/" for pattern in self.patterns if pattern.exception]

    def match(self, path: str, above: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
        """Whether ``path`` (relative, with slashes) is left out, and which patterns matched: ``above`` for what is in it."""
        matched = False
        hits = []
        for at, pattern in enumerate(self.patterns):
            hit = bool(above) and above[at]
            if not hit and pattern.exception == matched:
                hit = pattern.regexp.fullmatch(path) is not None
            hits.append(hit)
            if hit:
                matched = not pattern.exception
        return matched, tuple(hits)

    def may_skip(self, directory: str) -> bool:
        """Whether nothing below a directory that is left out can be wanted after all."""
        return not any(exception.startswith(directory + "/") for exception in self._exceptions)

    def leaves_out(self, path: str) -> bool:
        """Whether ``path``, or a directory above it, is left out."""
        above: tuple[bool, ...] = ()
        matched = False
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            matched, above = self.match("/".join(parts[:depth]), above)
        return matched


def read(text: str) -> list[str]:
    """The patterns of a ``.dockerignore``, cleaned; comments and empty lines left out."""
    found = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        exception = pattern.startswith("!")
        if exception:
            pattern = pattern[1:].strip()
        if not pattern and not exception:
            continue
        pattern = _clean(pattern) if pattern else ""
        if len(pattern) > 1 and pattern.startswith("/"):
            pattern = pattern[1:]
        found.append("!" + pattern if exception else pattern)
    return found


def _clean(path: str) -> str:
    """Go's ``filepath.Clean``."""
    rooted = path.startswith("/")
    out: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and out and out[-1] != "..":
            out.pop()
        elif part != ".." or not rooted:
            out.append(part)
    return ("/" if rooted else "") + "/".join(out) or "."


def _pattern(text: str) -> Pattern:
    exception = text.startswith("!")
    if exception:
        text = text[1:]
        if not text:
            raise IgnoreFault('illegal exclusion pattern: "!"')
    return Pattern(text, re.compile(_translate(text), re.DOTALL), exception=exception)


def _translate(pattern: str) -> str:
    if pattern.startswith("**") and not {*"*?[\\"} & {*pattern[2:]} and pattern[2:3] != "/":
        return ".*" + re.escape(pattern[2:])  # moby's suffix match: `**.log` at any depth
    out: list[str] = []
    at = 0
    size = len(pattern)
    while at < size:
        char = pattern[at]
        at += 1
        if char == "*":
            if not pattern.startswith("*", at):
                out.append("[^/]*")
                continue
            at += 1
            if pattern.startswith("/", at):
                at += 1
            out.append(".*" if at == size else "(?:.*/)?")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            if at == size:
                raise IgnoreFault("syntax error in pattern")
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            piece, at = _char_class(pattern, at)
            out.append(piece)
        else:
            out.append(re.escape(char))
    return "".join(out)


def _char_class(pattern: str, at: int) -> tuple[str, int]:
    """A bracketed class after its ``[``: as an expression, and where to go on.  Raises IgnoreFault."""
    fault = IgnoreFault("syntax error in pattern")
    negated = pattern.startswith("^", at)
    at += negated
    items: list[str] = []
    while True:
        if at >= len(pattern):
            raise fault
        if pattern[at] == "]" and items:
            return f"[{'^' if negated else ''}{''.join(items)}]", at + 1
        low, at = _class_char(pattern, at, fault)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_char(pattern, at + 1, fault)
        if low > high:
            raise fault
        items.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")


def _class_char(pattern: str, at: int, fault: IgnoreFault) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise fault
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise fault
    return pattern[at], at + 1
