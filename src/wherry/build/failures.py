"""What can go wrong in a build: a fault of the Dockerfile, with its place, or a step that failed.

Two wordings exist and clients look for both: the classic builder's one line, and BuildKit's with the excerpt of the Dockerfile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wherry.errors import EngineError, InvalidRequest

_AROUND = 4
"""Lines shown before and after the ones at fault, as BuildKit does."""


class DockerfileError(InvalidRequest):
    """The Dockerfile can't be built as it is written.  ``lines``: first and last line at fault, or None when there is no such place."""

    def __init__(self, message: str, lines: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.lines = lines


class BuildFailed(EngineError):
    """A step failed.  ``str()`` is the classic builder's line; ``detail`` BuildKit's; ``code`` the program's exit code, 0 when none ran."""

    def __init__(self, message: str, *, detail: str = "", code: int = 0, excerpt: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message
        self.code = code
        self.excerpt = excerpt
        self.lines: tuple[int, int] | None = None


def parse_error(line: int, end: int, message: str) -> DockerfileError:
    """The error for lines ``line`` to ``end``, in BuildKit's words."""
    return DockerfileError(f"dockerfile parse error on line {line}: {message}", (line, end))


def syntax_error(lines: tuple[int, int], message: str) -> DockerfileError:
    """The error for a file that can't be parted into instructions, in the classic builder's words."""
    return DockerfileError(f"failed to parse Dockerfile: {message}", lines)


def excerpt(name: str, source: str, lines: tuple[int, int]) -> str:
    """The lines at fault marked with ``>>>`` between their neighbours, as BuildKit prints them."""
    first, last = lines
    text = source.split("\n")
    low, high = _window(first, last, len(text))
    shown = [
        f"{number:4} | {'>>>' if first <= number <= last else '   '} {text[number - 1].rstrip(chr(13))}" for number in range(low, high + 1)
    ]
    return "\n".join([f"{name}:{first}", "-" * 20, *shown, "-" * 20]) + "\n"


def _window(first: int, last: int, count: int) -> tuple[int, int]:
    """BuildKit grows the window on both sides by turns until it has added four lines."""
    low, high, padding = first, last, 0
    while padding < _AROUND and (low > 1 or high < count):
        if low > 1:
            low, padding = low - 1, padding + 1
        if high < count:
            high, padding = high + 1, padding + 1
        padding += 1
    return low, min(high, count)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the nearest of ``known`` within two edits (of equals, one that starts alike), else nothing."""
    best, distance = "", 3
    for candidate in sorted(known, key=lambda name: name[:1].lower() != word[:1].lower()):
        edits = _edits(word.lower(), candidate.lower(), distance)
        if edits < distance:
            best, distance = candidate, edits
    return f" (did you mean {best}?)" if best else ""


def _edits(left: str, right: str, limit: int) -> int:
    """Levenshtein distance, or ``limit`` when it is at least that."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    row: Sequence[int] = range(len(right) + 1)
    for i, a in enumerate(left, 1):
        following = [i]
        for j, b in enumerate(right, 1):
            following.append(min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (a != b)))
        row = following
    return min(row[-1], limit)
