"""The JSON streams of pull, push, load and build, shown as they arrive.

On a terminal each layer keeps its line and a bar; elsewhere only finished steps are printed.  Source: docker/cli jsonmessage.
"""

from __future__ import annotations

from wherry.cli.flags import Failure
from wherry.cli.output import escape, size
from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from wherry.client.engine import Engine
    from wherry.client.http import Response


class StreamError(Failure):
    """The stream told an error; ``status`` is the exit code of the command that failed there, or 1."""


class Display:
    """Writes records with ``write``; ``width`` is the terminal's, 0 when there is none."""

    def __init__(self, write: Callable[[str], object], width: int = 0, aux: Callable[[Any], None] | None = None) -> None:
        self._write = write
        self._width = width
        self._aux = aux
        self._lines: dict[str, int] = {}

    def show_all(self, pieces: Iterable[bytes]) -> None:
        """Show a whole stream.  Raises StreamError for an error in it, after what came before."""
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        for piece in pieces:
            records, rest = jsontext.parse_many(rest + decoder.decode(piece))
            for record in records:
                self.show(record)
        if rest.strip():
            raise StreamError(f"the stream ended inside a record: {escape(rest[:80])}")

    def show(self, record: Any) -> None:
        """Show one record."""
        if not isinstance(record, dict):
            raise StreamError(f"not a progress record: {escape(str(record)[:80])}")
        if record.get("error") or record.get("errorDetail"):
            detail = record.get("errorDetail") or {}
            raise StreamError(detail.get("message") or record.get("error") or "unknown error", detail.get("code") or 1)
        if "aux" in record:
            if self._aux is not None:
                self._aux(record["aux"])
            return
        detail = record.get("progressDetail")
        ident = record.get("id") or ""
        if not self._width:
            if not (detail and bar(detail, 0)):
                self._write(self._body(record, ident))
            return
        up = 0
        if ident and detail is not None:
            if ident not in self._lines:
                self._lines[ident] = len(self._lines)
                self._write("\n")
            up = len(self._lines) - self._lines[ident]
            self._write(f"\x1b[{up}A")
        else:
            self._lines = {}
        if detail is not None and not record.get("stream"):
            progress = bar(detail, self._width)
            self._write(f"\x1b[2K\r{prefix(ident)}{escape(record.get('status') or '')} {progress}\r")
        else:
            self._write(self._body(record, ident))
        if up:
            self._write(f"\x1b[{up}B")

    def _body(self, record: dict[str, Any], ident: str) -> str:
        stream = record.get("stream")
        if stream:
            return prefix(ident) + str(stream)
        return f"{prefix(ident)}{escape(record.get('status') or '', keep=chr(9))}\n"


def prefix(ident: str) -> str:
    return f"{escape(ident)}: " if ident else ""


def bar(detail: dict[str, Any], width: int) -> str:
    """The bar and figures of one ``progressDetail``; empty when it says nothing."""
    current = detail.get("current") or 0
    total = detail.get("total") or 0
    if current <= 0 and total <= 0:
        return ""
    units = detail.get("units") or ""
    if total <= 0:
        return f"{current} {units}" if units else f"{size(current):>8}"
    half = min(int(current / total * 100) // 2, 50)
    drawn = f"[{'=' * half}>{' ' * (50 - half)}] " if width > 110 else ""
    if detail.get("hidecounts"):
        return drawn
    if units:
        return f"{drawn}{current}/{total} {units}" if current <= total else f"{drawn}{current} {units}"
    return f"{drawn}{size(current):>8}" + (f"/{size(total)}" if current <= total else "")


def show_stream(engine: Engine, response: Response, *, aux: Callable[[Any], None] | None = None, to_stderr: bool = False) -> None:
    """Show the whole body of ``response`` on standard output, with bars when that is a terminal.  Raises StreamError."""
    import os
    import sys

    out = sys.stderr if to_stderr else sys.stdout
    width = 0
    if out.isatty():
        try:
            width = os.get_terminal_size(out.fileno()).columns or 80
        except OSError:
            width = 80

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    display = Display(write, width, aux)
    try:
        display.show_all(response)
    finally:
        engine.done(response)
