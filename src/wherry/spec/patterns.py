"""Patterns of paths: the lines of a ``.dockerignore``, ``--exclude``, and the wildcards of COPY.

Docker's rules, not git's: a pattern is anchored at the context's root, ``*`` and ``?`` stay within one component, ``**`` spans any number
of them, ``!`` takes back, the last match wins, and what lies below a matching directory matches with it. The command line leaves out what
they match, and the builder what an archive from elsewhere still has.  Source: moby/patternmatcher; BuildKit's fsutil for what lies below a
directory that is left out; Go's filepath.Match for the rest of the syntax.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing costs 8 ms to import, and the command line reads patterns too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_STAR, _DEEP, _REST = "[^/]*", "(?:.*/)?", ".*"  # of any length; every other token is for one character
_ONE = {_STAR: "[^/]", _DEEP: ".", _REST: "."}  # what one character of them is
_FEW = 2  # such tokens: as an expression they cost at most the square of a path's length, more of them a power of it


class BadPattern(ValueError):
    """A pattern that cannot be read, in Go's words."""


class _Pattern:
    """One cleaned line; ``takes_back`` for a leading ``!``; ``fixed``: its components before the first with a wildcard."""

    __slots__ = ("fixed", "matches", "takes_back")

    def __init__(self, text: str) -> None:
        self.takes_back = text.startswith("!")
        text = text.removeprefix("!")
        if not text:
            raise BadPattern('illegal exclusion pattern: "!"')
        self.matches = _matcher(_tokens(text, deep=True))
        parts = text.split("/")
        wild = next((at for at, part in enumerate(parts) if is_wild(part)), len(parts))
        self.fixed = parts[:wild]


class _Simulation:
    """All ways through a pattern at once, a bit for each token: linear in the path's length whatever the pattern."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tests = [re.compile(_ONE.get(token, token), re.DOTALL) for token in tokens]
        self._end = 1 << len(tokens)
        self._stars = _bits(tokens, _STAR, _REST)
        self._deep = _bits(tokens, _DEEP)
        self._accepting: dict[str, int] = {}

    def matches(self, path: str) -> bool:
        states = self._spread(1, self._stars | self._deep)
        for character in path:
            accepted = states & self._accepted(character)
            moved = accepted & ~(self._stars | self._deep)
            if character == "/":
                moved |= states & self._deep
            states = self._spread(moved << 1, self._stars | self._deep) | self._spread(accepted & (self._stars | self._deep), self._stars)
        return bool(states & self._end)

    def _accepted(self, character: str) -> int:
        found = self._accepting.get(character)
        if found is None:
            found = sum(1 << at for at, test in enumerate(self._tests) if test.fullmatch(character))
            self._accepting[character] = found
        return found

    @staticmethod
    def _spread(states: int, optional: int) -> int:
        """And the states behind tokens that may stand for nothing."""
        while more := ((states & optional) << 1) & ~states:
            states |= more
        return states


class Patterns:
    """A list of patterns, in order.  Raises BadPattern."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_Pattern(text) for text in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str, above: Sequence[bool]) -> tuple[bool, Sequence[bool]]:
        """Whether ``path`` (relative, with ``/``) is matched, and which patterns did: ``above`` for what is in it, () at the root."""
        matched = False
        hits = []
        for at, pattern in enumerate(self._patterns):
            hit = bool(above) and above[at]
            if not hit and pattern.takes_back == matched:
                hit = pattern.matches(path)
            hits.append(hit)
            if hit:
                matched = not pattern.takes_back
        return matched, hits

    def matches(self, path: str) -> bool:
        """Whether ``path`` itself, or a directory above it, is matched, and no later ``!`` took it back."""
        matched = False
        above: Sequence[bool] = ()
        end = 0
        while end >= 0:
            end = path.find("/", end + 1)
            matched, above = self.match(path if end < 0 else path[:end], above)
        return matched

    def may_hold_kept(self, directory: str) -> bool:
        """Whether something below the matched ``directory`` could be taken back."""
        parts = directory.split("/")
        return any(
            pattern.takes_back and all(ours == theirs for ours, theirs in zip(parts, pattern.fixed, strict=False))
            for pattern in self._patterns
        )


def patterns_of(text: str) -> list[str]:
    """Those of a ``.dockerignore``, cleaned: comments and empty lines left out, a ``/`` in front too."""
    found = []
    for line in text.removeprefix("\ufeff").split("\n"):
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix("!").strip()
        found.append(mark + (_clean(pattern) if pattern else ""))
    return found


def name_matcher(pattern: str) -> Callable[[str], bool]:
    """Go's filepath.Match for one component.  Raises BadPattern."""
    return _matcher(_tokens(pattern, deep=False))


def is_wild(pattern: str) -> bool:
    """Whether ``pattern`` holds a wildcard (or an escape) at all."""
    return any(character in "*?[\\" for character in pattern)


def _matcher(tokens: Sequence[str]) -> Callable[[str], bool]:
    if sum(token in _ONE for token in tokens) > _FEW:
        return _Simulation(tokens).matches
    expression = re.compile("".join(tokens), re.DOTALL)
    return lambda path: expression.fullmatch(path) is not None


def _bits(tokens: Sequence[str], *wanted: str) -> int:
    return sum(1 << at for at, token in enumerate(tokens) if token in wanted)


def _clean(path: str) -> str:
    """Go's ``filepath.Clean``, then without the ``/`` in front."""
    rooted = path.startswith("/")
    out: list[str] = []
    for part in path.split("/"):
        if part == ".." and out and out[-1] != "..":
            out.pop()
        elif part not in ("", ".") and not (part == ".." and rooted):
            out.append(part)
    return "/".join(out) or ("/" if rooted else ".")


def _tokens(pattern: str, *, deep: bool) -> list[str]:
    """The pattern as pieces of a regular expression; ``deep``: ``**`` has its meaning.  Raises BadPattern."""
    if deep and pattern.startswith("**") and pattern[2:3] != "/" and not is_wild(pattern[2:]):
        return [_REST, *map(re.escape, pattern[2:])]  # moby's suffix match: `**.log` at any depth
    found: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            token = _STAR
            if deep and pattern.startswith("*", at):
                at += 1 + pattern.startswith("/", at + 1)
                token = _DEEP if at < len(pattern) else _REST
            if found[-1:] != [token]:
                found.append(token)
        elif character == "?":
            found.append("[^/]")
        elif character == "[":
            token, at = _set(pattern, at)
            found.append(token)
        else:
            if character == "\\":
                character, at = _character(pattern, at - 1)
            found.append(re.escape(character))
    return found


def _set(pattern: str, at: int) -> tuple[str, int]:
    """A class of characters after its ``[``, as an expression, and where to go on."""
    mark = "^" if pattern.startswith("^", at) else ""
    at += len(mark)
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", at)):
        low, at = _bound(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _bound(pattern, at + 1)
        if low > high:
            raise BadPattern("syntax error in pattern")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{mark}{''.join(ranges)}]", at + 1


def _bound(pattern: str, at: int) -> tuple[str, int]:
    if pattern.startswith(("-", "]"), at):
        raise BadPattern("syntax error in pattern")
    return _character(pattern, at)


def _character(pattern: str, at: int) -> tuple[str, int]:
    """One character, perhaps escaped, and where to go on."""
    at += pattern.startswith("\\", at)
    if at >= len(pattern):
        raise BadPattern("syntax error in pattern")
    return pattern[at], at + 1
