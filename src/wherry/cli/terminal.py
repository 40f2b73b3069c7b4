"""The terminal on the client's side: raw mode, size, detach keys, and signals as bytes on a pipe."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import TracebackType
    from typing import Any
else:
    import _signal  # the builtin half of signal: its enums cost 4 ms

DEFAULT_KEYS = b"\x10\x11"  # ctrl-p, ctrl-q

SIGWINCH = 28
# what a person or a supervisor sends; faults and child, pipe and urgent-data signals stay here
FORWARDED = (1, 2, 3, 10, 12, 14, 15, 18, 20, SIGWINCH)

ENDING = (2, 15)


def is_terminal(descriptor: int) -> bool:
    """False also for a closed descriptor."""
    return os.isatty(descriptor)


def size(descriptor: int = 1) -> tuple[int, int] | None:
    """Rows and columns, or None where there is no terminal, or one that has no size."""
    try:
        found = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (found.lines, found.columns) if found.lines or found.columns else None


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as bytes; the default for "".  Raises ValueError."""
    if not text:
        return DEFAULT_KEYS
    return b"".join(_key(word) for word in text.split(","))


def _key(word: str) -> bytes:
    if len(word) == 1:
        return word.encode()
    control = word.removeprefix("ctrl-")
    if len(control) != 1 or control == word or not ("a" <= control <= "z" or control in "@[\\]^_"):
        raise ValueError(f"Unknown character: '{word}'")
    return bytes((ord(control.upper()) - 64,))


class KeyWatch:
    """Watches typed bytes for the detach keys; everything is passed on, the daemon swallows what is its own."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def seen_in(self, typed: bytes) -> bool:
        """True once the last key of the sequence has been typed."""
        for byte in typed:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return True
            else:
                self._matched = int(byte == self._keys[0])
        return False


class RawMode:
    """The terminal in raw mode while entered; untouched when ``descriptor`` is none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        import termios as t

        if is_terminal(self._descriptor):
            saved = t.tcgetattr(self._descriptor)
            self._saved = saved
            made = [*saved[:6], list(saved[6])]
            made[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
            made[1] &= ~t.OPOST
            made[2] = made[2] & ~(t.CSIZE | t.PARENB) | t.CS8
            made[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
            made[6][t.VMIN], made[6][t.VTIME] = 1, 0
            t.tcsetattr(self._descriptor, t.TCSANOW, made)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._saved is not None:
            import termios

            try:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
            except termios.error:  # it has been closed
                pass
            self._saved = None


class Signals:
    """While entered, ``numbers`` arrive as bytes readable at ``descriptor`` in place of their usual effect."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self._numbers = numbers
        self._former: list[tuple[int, Any]] = []
        self.descriptor = -1
        self._write = -1

    def __enter__(self) -> Signals:
        self.descriptor, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._former = [(number, _signal.signal(number, _ignore)) for number in self._numbers]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._former:
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)
        _signal.set_wakeup_fd(-1)
        os.close(self.descriptor)
        os.close(self._write)

    def pending(self) -> bytes:
        """One byte for each signal that came."""
        try:
            return bytes(number for number in os.read(self.descriptor, 64) if number in self._numbers)
        except BlockingIOError:
            return b""


def _ignore(number: int, frame: object) -> None:
    """The wake-up descriptor tells."""
