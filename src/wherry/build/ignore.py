""".dockerignore: which paths of a context are left out.

Docker's rules, not git's: a pattern is anchored at the context's root, ``*`` and ``?`` stay within one component, ``**`` spans any
number of them, ``!`` takes back, the last match wins, and what lies below a matching directory matches with it. Matching costs at most
pattern length times path length, for any pattern: no ``re`` on paths.  Source: moby/patternmatcher, with Go's filepath.Match syntax.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ANY_DEPTH = None


class BadPattern(ValueError):
    """A pattern that filepath.Match would refuse."""


@dataclass(frozen=True, slots=True)
class _Set:
    """``[a-z]``: ranges of characters; ``negated`` for ``[^a-z]``."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def holds(self, character: str) -> bool:
        return any(low <= character <= high for low, high in self.ranges) != self.negated


_Token = str | _Set  # "*", "?", a set, or "\\" + the character itself
_Component = tuple[_Token, ...] | str  # a plain string has no wildcard


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: components, None among them for ``**``; ``takes_back`` for a leading ``!``."""

    components: tuple[_Component | None, ...]
    takes_back: bool = False


def read_patterns(text: str) -> list[str]:
    """The patterns of a .dockerignore, cleaned: comments and blank lines dropped, ``/`` in front optional."""
    found: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n")):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        takes_back = pattern.startswith("!")
        if takes_back:
            pattern = pattern[1:].strip()
        if not pattern:
            raise BadPattern(f'illegal exclusion pattern: "!" (line {number + 1})')
        pattern = posixpath.normpath(pattern)
        if len(pattern) > 1 and pattern.startswith("/"):
            pattern = pattern.lstrip("/")
        found.append(("!" if takes_back else "") + pattern)
    return found


class Matcher:
    """Answers whether a path (relative to the root, with ``/``) is matched by a list of patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(compile_pattern(pattern, spread=True) for pattern in patterns)
        self.takes_back = any(pattern.takes_back for pattern in self.patterns)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def matches(self, path: str) -> bool:
        """Whether ``path`` itself, or a directory above it, is matched, and no later ``!`` took it back."""
        parts = path.split("/")
        matched = False
        for pattern in self.patterns:
            if pattern.takes_back == matched and _matches_prefix(pattern.components, parts):
                matched = not pattern.takes_back
        return matched

    def may_hold_kept(self, directory: str) -> bool:
        """Whether something below the matched ``directory`` could be taken back."""
        if not self.takes_back:
            return False
        parts = directory.split("/")
        return any(pattern.takes_back and _could_reach(pattern.components, parts) for pattern in self.patterns)


def _spread(text: str) -> str:
    """``**`` in front of other characters, as moby reads it: ``**.log`` at any depth, but ``a/**.log`` is ``a/**/.log``."""
    if text.startswith("**") and text[2:3] not in ("", "/") and not re.search(r"[*?\[\\]", text[2:]):
        return f"**/*{text[2:]}"
    return re.sub(r"(^|/)\*\*(?=[^/])", r"\1**/", text)


def compile_pattern(text: str, *, spread: bool = False) -> Pattern:
    """Read one pattern; ``spread``: with `_spread`.  Raises BadPattern."""
    takes_back = text.startswith("!")
    body = posixpath.normpath(text[1:] if takes_back else text).strip("/")
    body = _spread(body) if spread else body
    components = tuple(_ANY_DEPTH if part == "**" else _component(part) for part in body.split("/"))
    return Pattern(components, takes_back)


def match(pattern: str, path: str) -> bool:
    """Go's filepath.Match: the whole of ``path``, component by component.  Raises BadPattern."""
    wanted, parts = pattern.split("/"), path.split("/")
    compiled = [_component(part) for part in wanted]
    return len(wanted) == len(parts) and all(_match_one(one, part) for one, part in zip(compiled, parts, strict=True))


def is_wild(pattern: str) -> bool:
    """Whether ``pattern`` holds a wildcard (or an escape) at all."""
    return any(character in "*?[\\" for character in pattern)


def _component(text: str) -> _Component:
    if not is_wild(text):
        return text
    tokens: list[_Token] = []
    index = 0
    while index < len(text):
        character = text[index]
        index += 1
        if character == "[":
            found, index = _set(text, index)
            tokens.append(found)
        elif character == "\\":
            if index >= len(text):
                raise BadPattern(f"syntax error in pattern: {text!r}")
            tokens.append("\\" + text[index])
            index += 1
        elif character in "*?":
            if character == "?" or not tokens or tokens[-1] != "*":
                tokens.append(character)
        else:
            tokens.append("\\" + character)
    return tuple(tokens)


def _set(text: str, index: int) -> tuple[_Set, int]:
    """After ``[``: the set and where it ends."""

    def character(at: int) -> tuple[str, int]:
        if text[at : at + 1] == "\\":
            at += 1
        if at >= len(text):
            raise BadPattern(f"syntax error in pattern: {text!r}")
        return text[at], at + 1

    negated = text[index : index + 1] == "^"
    index += negated
    ranges: list[tuple[str, str]] = []
    while text[index : index + 1] != "]" or not ranges:
        low, index = character(index)
        high = low
        if text[index : index + 1] == "-":
            high, index = character(index + 1)
        ranges.append((low, high))
    return _Set(tuple(ranges), negated), index + 1


def _match_one(component: _Component, name: str) -> bool:
    """Greedy with one point to come back to: linear for one star, never worse than length times length."""
    if isinstance(component, str):
        return component == name
    at = place = 0
    star, resume = -1, 0
    while place < len(name):
        token = component[at] if at < len(component) else None
        if token == "*":
            star, resume = at, place
            at += 1
        elif token is not None and _holds(token, name[place]):
            at += 1
            place += 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(token == "*" for token in component[at:])


def _holds(token: _Token, character: str) -> bool:
    if isinstance(token, _Set):
        return token.holds(character)
    return token == "?" or token[1:] == character


def _reach(components: Sequence[_Component | None], parts: Sequence[str]) -> list[set[int]]:
    """After each number of parts, how many components may have been used."""
    here = _close(components, {0})
    steps = [here]
    for part in parts:
        following: set[int] = set()
        for used in here:
            if used < len(components):
                component = components[used]
                if component is _ANY_DEPTH:
                    following.update({used, used + 1} if used == len(components) - 1 else {used})
                elif _match_one(component, part):
                    following.add(used + 1)
        here = _close(components, following)
        steps.append(here)
        if not here:
            break
    return steps


def _close(components: Sequence[_Component | None], used: set[int]) -> set[int]:
    """``**`` may stand for nothing, but not at the end: ``a/**`` is what lies below ``a``."""
    closed = set(used)
    for position in sorted(used):
        while position < len(components) - 1 and components[position] is _ANY_DEPTH:
            position += 1
            closed.add(position)
    return closed


def _matches_prefix(components: Sequence[_Component | None], parts: Sequence[str]) -> bool:
    """Whether the pattern matches the path or a directory above it.  ``**`` alone matches everything, never the empty path."""
    first = components[0]
    if isinstance(first, str) and first != parts[0] and first != ".":
        return False
    return any(len(components) in used for used in _reach(components, parts)[1:])


def _could_reach(components: Sequence[_Component | None], parts: Sequence[str]) -> bool:
    steps = _reach(components, parts)
    return len(steps) == len(parts) + 1 and bool(steps[-1])
